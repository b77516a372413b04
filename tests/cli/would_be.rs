//! What an `up` would be refused with, told before it is given: by `-d up`, and by `why`.

use crate::Node;

impl Node {
    /// The refusal of `up`, which `-d up` has told before in the same words, and with no step as if it were fine.
    fn refused_and_foretold(&self, resource: &str) -> String {
        let foretold = self.told(&format!("-d up {resource}"));
        let (code, text, error) = self.told(&format!("up {resource}"));
        assert_eq!((code, text.as_str()), (10, ""), "{error}");
        assert_eq!(foretold, (code, text, error.clone()));
        error
    }
}

#[test]
fn a_minor_that_is_taken_is_told_by_a_dry_run_and_by_why() {
    let node = Node::new();
    assert_eq!(node.told("create-md r0").0, 0);
    let _daemon = node.daemon(&[]);
    let old = node.written();
    let (code, text, _) = node.told("-d up r0");
    assert!(code == 0 && text.starts_with("drbdsetup new-resource r0 0\n"), "{text}");
    assert_eq!(node.told("up r0").0, 0);
    // r0 has another one by the file, and its old one is that of r1.
    let r1 = old.replace("r0", "r1").replace(":17789", ":17790");
    std::fs::File::create(node.path("r1.img")).unwrap().set_len(16 << 20).unwrap();
    node.write(&format!("{}{r1}", old.replace("minor 0", "minor 5")));
    assert_eq!(node.told("create-md r1").0, 0);
    let said = node.refused_and_foretold("r1");
    assert!(said.starts_with("r1: Failure: (161) Minor or volume exists already"), "{said}");
    let taken = "r1/0: minor 0 is that of r0/0, which is up. Write another `device` for r1, or \
                 `tandemadm down r0` first.";
    assert!(said.contains(taken), "{said}");
    let (code, text, error) = node.told("why r1");
    assert_eq!((code, text.as_str()), (10, ""), "{error}");
    assert!(
        error.starts_with("r1: No such resource\nr1 is not up, and `up` is refused: "),
        "{error}"
    );
    assert!(
        error.contains("(161) Minor or volume exists already") && error.contains(taken),
        "{error}"
    );
    let (code, text, error) = node.told("why");
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(text.contains("r1 is not up on alice.\n"), "{text}");
    assert!(
        text.contains("  Why:   `up` is refused: (161) Minor or volume exists already"),
        "{text}"
    );
    assert!(
        text.contains(&format!("  Next:  1. {taken}\n         2. `tandemadm up r1` on alice.\n")),
        "{text}"
    );
    // What runs is another than the file says.
    let said = node.refused_and_foretold("r0");
    assert!(said.contains("(174) Already exists"), "{said}");
    assert_eq!(node.told("down r0").0, 0);
    assert_eq!(node.told("-d up r1").0, 0);
    let (code, _, error) = node.told("why r1");
    assert!(code == 10 && error.ends_with("r1 is not up: `tandemadm up r1`.\n"), "{error}");
}

#[test]
fn a_disk_that_is_refused_is_told_by_a_dry_run() {
    let node = Node::new();
    let _daemon = node.daemon(&[]);
    let said = node.refused_and_foretold("r0");
    assert!(said.contains("(119) ") && said.contains("`tandemadm create-md`"), "{said}");
    // It is up now, without its disk.
    node.refused_and_foretold("r0");
    assert_eq!(node.told("down r0").0, 0);
    let (_, _, said) = node.told("why r0");
    assert!(said.contains("`up` is refused: (119) "), "{said}");
    assert!(said.ends_with("Then `tandemadm up r0`.\n"), "{said}");
    let whole = node.written();
    assert_eq!(node.told("create-md r0").0, 0);
    node.write(&whole.replace("meta-disk internal;", "meta-disk internal; disk { size 1G; }"));
    assert!(node.refused_and_foretold("r0").contains("(111) "));
    std::fs::remove_file(node.path("r0.img")).unwrap();
    assert!(node.refused_and_foretold("r0").contains("(104) "));
    // One whose definition is refused.
    node.write(&format!("{whole}resource r1 {{ frob; }}\n"));
    let (code, _, error) = node.told("why r1");
    assert_eq!(code, 10);
    let refused = "r1 is not up, and the configuration refuses it: ";
    assert!(error.contains(refused) && error.contains("tandem.conf:6: "), "{error}");
}
