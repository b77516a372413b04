//! `check`, as monitoring calls it.

use std::time::{Duration, Instant};

use crate::Node;

#[test]
fn a_configuration_that_is_not_valid_is_no_reason_for_ok() {
    let node = Node::new();
    let daemon = node.daemon(&[]);
    let conf = node.path("tandem.conf");
    let whole = std::fs::read_to_string(&conf).unwrap();
    let warned = |text: &str, words: &str| {
        match text {
            "" => std::fs::remove_file(&conf).unwrap(),
            text => std::fs::write(&conf, text).unwrap(),
        }
        let (code, line, error) = node.told(words);
        assert_eq!((code, error.as_str()), (1, ""), "{line}");
        assert!(line.starts_with("WARNING: ") && line.lines().count() == 1, "{line}");
        line
    };
    let named = format!("{}:1: ", conf.display());
    assert!(warned("resource r0 {\n", "check").contains(&named));
    let line = warned(&format!("{whole}resource r1 {{ frob; }}\n"), "check");
    assert!(line.contains(&format!("{}:6: ", conf.display())), "{line}");
    assert!(line.contains("r0 is not up; "), "{line}");
    // What is wrong with another is not this one's.
    let line = warned(&format!("{whole}resource r1 {{ frob; }}\n"), "check r0");
    assert!(!line.contains(":6:"), "{line}");
    assert!(warned("", "check").contains(&format!("{}: ", conf.display())));
    drop(daemon);
}

#[test]
fn whatever_is_wrong_is_one_line_and_3() {
    let node = Node::new();
    for words in ["check --frob", "check r0/0", "check r0", "--cmd-timeout 0 check"] {
        let (code, line, _) = node.told(words);
        assert_eq!(code, 3, "{words}: {line}");
        assert!(line.starts_with("UNKNOWN: ") && line.ends_with(" | -\n"), "{words}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert_eq!(node.told("frob check").0, 1);
    let daemon = node.daemon(&[]);
    daemon.stop();
    let begun = Instant::now();
    let (code, line, _) = node.told("check");
    assert_eq!(code, 3);
    assert!(line.contains(&format!(" (lock held by pid {}) | -", daemon.pid())), "{line}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn why_tells_what_is_defined_and_down() {
    let node = Node::new();
    assert_eq!(node.told("create-md r0").0, 0);
    let daemon = node.daemon(&[]);
    let (code, text, error) = node.told("why");
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(text.starts_with("r0 is not up on alice.\n"), "{text}");
    assert!(text.contains("  Next:  `tandemadm up r0` on alice.\n"), "{text}");
    // Who names it asks for what is not there.
    let (code, _, error) = node.told("why r0");
    assert_eq!(code, 10);
    assert!(error.contains("r0 is not up: `tandemadm up r0`."), "{error}");
    drop(daemon);
}

#[test]
fn status_says_that_the_configuration_is_not_valid_any_more() {
    let node = Node::new();
    assert_eq!(node.told("create-md r0").0, 0);
    let _daemon = node.daemon(&[]);
    assert_eq!(node.told("up r0").0, 0);
    let (code, shown, error) = node.told("status");
    assert_eq!((code, error.as_str()), (0, ""));
    let (conf, whole) = (node.path("tandem.conf"), node.written());
    node.write(&format!("{whole}resource r1 {{ frob; }}\n"));
    let json = node.told("status --json");
    for words in ["status", "status all", "status --verbose"] {
        let (code, text, error) = node.told(words);
        assert_eq!(code, 0, "{words}");
        assert!(!text.contains("not valid"), "{words}: {text}");
        let said = format!("what is up goes on as it is: {}:6: ", conf.display());
        assert!(error.contains(&said) && error.lines().count() == 1, "{words}: {error}");
    }
    assert_eq!(node.told("status").1, shown);
    assert_eq!((json.0, json.2.as_str()), (0, ""), "for programs");
    assert_eq!(
        node.told("status r0"),
        (0, shown.clone(), String::new()),
        "it is about another one"
    );
    let tool = node.tool("drbdadm status r0");
    assert_eq!((tool.0, tool.2.as_str()), (0, ""), "as DRBD has it");
    assert_eq!(node.tool("drbdsetup status").2, "");
    node.write("resource r0 {\n");
    assert!(node.told("status r0").2.contains("tandem.conf:1: "));
    std::fs::remove_file(&conf).unwrap();
    assert!(node.told("status").2.contains("tandem.conf: "));
    node.write(&whole);
    assert_eq!(node.told("status"), (0, shown, String::new()));
}
