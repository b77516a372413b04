//! What is printed and kept where something was wrong.

use crate::book::Violation;
use crate::driver::Driver;
use crate::node::QUESTION;

/// Lines of each log that are printed.
const LINES: usize = 40;

/// Everything that is known.
pub(crate) fn print(driver: &Driver, violation: &Violation) {
    println!("\nVIOLATION with seed {}: {}", driver.seed, violation.text);
    if let Some(sector) = violation.sector {
        println!("sector {sector}, its history:");
        for line in driver.world.book().account(sector) {
            println!("  {line}");
        }
    }
    for node in driver.nodes.iter() {
        println!("---- {}: the end of its log ({}/log)", node.name(), node.run_dir.display());
        println!("{}", node.log_end(LINES));
        for words in [&["status", "--verbose", "r0"][..], &["why", "r0"]] {
            let said = node.adm(words, QUESTION);
            println!("---- {}# tandemadm {}", node.name(), words.join(" "));
            println!("{}{}", said.stdout, said.stderr);
        }
        let said = node.adm(&["dump-md", "r0"], QUESTION);
        let place = node.run_dir.join("dump-md");
        let _ = std::fs::write(&place, &said.stdout);
        println!("---- {}# tandemadm dump-md r0 (all of it: {})", node.name(), place.display());
        for line in said.stdout.lines().filter(|line| !line.contains("0x0000000000000000; 0x000")) {
            println!("{line}");
            if line.contains("bitmap") {
                break;
            }
        }
    }
    println!("logs, images and recordings: {}", driver.folder.display());
}
