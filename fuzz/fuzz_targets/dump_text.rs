#![no_main]

tandem_fuzz::target!(dump_text);
