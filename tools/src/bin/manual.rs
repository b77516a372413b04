//! `manual DIR`: the manual pages and the completion, from the command lines and the table of
//! options that the programs themselves read.

use std::path::{Path, PathBuf};

use clap::Parser;
use roff::{Roff, bold, italic, roman};
use tandem::config::{ManualOption, manual};

/// Writes tandemadm(8) with a page a verb, tandemd(8), tandem-attach(8), tandem-drbd-compat(8),
/// tandem.conf(5) and the bash
/// completions.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder, which is made.
    dir: PathBuf,
}

fn main() -> std::io::Result<()> {
    let Arguments { dir } = Arguments::parse();
    std::fs::create_dir_all(&dir)?;
    let mut adm = tandem::control::arguments::command().disable_help_subcommand(true);
    adm.build();
    for verb in adm.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        page(verb, &dir)?;
        for inner in verb.get_subcommands().filter(|inner| inner.get_name() != "help") {
            page(inner, &dir)?;
        }
    }
    page(&adm, &dir)?;
    page(&tandem::io::control::daemon::command(), &dir)?;
    let mut attach = tandem::attach::command();
    page(&attach, &dir)?;
    page(&tandem::compat::command(), &dir)?;
    std::fs::write(dir.join("tandem.conf.5"), conf().to_roff())?;
    for (command, name) in [(&mut adm, "tandemadm"), (&mut attach, "tandem-attach")] {
        let mut completion = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, command, name, &mut completion);
        std::fs::write(dir.join(name), completion)?;
    }
    Ok(())
}

fn page(command: &clap::Command, dir: &Path) -> std::io::Result<()> {
    let source = format!("Tandem {}", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).section("8").source(source).manual("Tandem");
    page.generate_to(dir).map(drop)
}

/// `tandem.conf(5)`.
fn conf() -> Roff {
    let mut roff = Roff::new();
    let source = format!("Tandem {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["tandem.conf", "5", "", &source, "Tandem"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("tandem.conf - what tandemadm reads: resources, hosts, volumes, options")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "The grammar is that of drbd.conf(5). tandemadm reads the file and hands each resource's \
         definition to tandemd with up, attach, connect and adjust. What Tandem does not do is \
         refused with file, line and column, or warned about where leaving it out is harmless; \
         nothing is ignored in silence.",
    )]);
    roff.control("SH", ["EXAMPLE"]);
    roff.control("nf", []);
    for line in EXAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    for section in ["options", "net", "disk", "startup"] {
        roff.control("SH", [format!("SECTION {section}").as_str()]);
        for option in manual().iter().filter(|option| option.section == section) {
            entry(&mut roff, option);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("tandemadm"), roman("(8), "), bold("tandemd"), roman("(8)")]);
    roff
}

fn entry(roff: &mut Roff, option: &ManualOption) {
    roff.control("TP", []);
    roff.text([bold(option.name), roman(" "), italic(option.values.as_str())]);
    let default = option.default.as_ref().map(|value| format!(" Default: {value}."));
    roff.text([roman(option.what), roman(default.unwrap_or_default())]);
}

const EXAMPLE: &str = "\
resource r0 {
    net { protocol C; }
    volume 0 { device minor 0; disk /var/lib/tandem/r0.img; meta-disk internal; }
    on alice { node-id 0; address 10.0.0.1:7789; }
    on bob   { node-id 1; address 10.0.0.2:7789; }
}";
