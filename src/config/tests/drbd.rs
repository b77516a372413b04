//! What is legal in DRBD's files beside the common forms, and what stands where nothing is read.

use super::*;

#[test]
fn a_backslash_in_quotes_takes_what_follows_as_it_is() {
    let definition = clean(&pair(r#"handlers { split-brain "echo \"a b\" \\ c"; }"#));
    let line = &definition.options.handlers[&Handler::SplitBrain];
    assert_eq!(line, r#"echo "a b" \ c"#);
    // Which the writer may not have meant.
    let taken = loaded(&pair(r#"net { shared-secret "a\bc"; }"#));
    assert_eq!(taken.resources[0].secrets.as_ref().unwrap().shared_secret.written(), "abc");
    assert!(short(&taken).iter().any(|one| one.contains("in quotes a backslash is not itself")));
    let text = pair(r#"net { shared-secret "a\"b\\;#"; }"#).replace("/d0", r#""/d\\0\"x""#);
    let definition = clean(&text);
    assert_eq!(definition.hosts[0].volumes[&0].disk.as_deref(), Some(r#"/d\0"x"#));
    assert_eq!(definition.secrets.unwrap().shared_secret.written(), r#"a"b\;#"#);
    // At the end of a line there is nothing to take, and a bare word has no escapes.
    let open = short(&loaded("include \"a\\\n"));
    assert!(open.iter().any(|one| one.contains("not closed on its line")), "{open:?}");
    let bare = clean(&pair("").replace("/d0", r"/d\0"));
    assert_eq!(bare.hosts[0].volumes[&0].disk.as_deref(), Some(r"/d\0"));
}

#[test]
fn what_is_printed_has_its_escapes() {
    let text = pair(r#"net { shared-secret "a\"b\\"; } handlers { split-brain "say \"<x>\""; }"#)
        .replace("/d0", r"/d\0");
    let config = loaded(&text);
    let printed = dump(&config);
    for word in [r#""a\"b\\";"#, r#""say \"<x>\"";"#, r#""/d\\0";"#] {
        assert!(printed.contains(word), "{printed}");
    }
    let again = loaded(&printed);
    assert_eq!(again.resources[0].secrets, config.resources[0].secrets);
    assert_eq!(again.resources[0].options, config.resources[0].options);
    assert_eq!(again.resources[0].hosts, config.resources[0].hosts);
    // XML has escapes of its own.
    let xml = dump_xml("x", &config.resources);
    assert!(xml.contains("value=\"say &quot;&lt;x&gt;&quot;\""), "{xml}");
    assert!(xml.contains(r"<disk>/d\0</disk>"), "{xml}");
}

#[test]
fn names_of_hosts_are_one_in_upper_and_lower_case() {
    let definition = clean(&pair("connection { host ALICE; host Bob; }").replace("on a", "on A"));
    assert_eq!(definition.local("alice").map(|host| host.name.as_str()), Some("Alice"));
    assert_eq!(definition.local("ALICE.example.com").map(|host| host.node_id), Some(0));
    assert!(same_host("Bob", "bob.example.com"));
    assert!(!same_host("bob", "bobby.example.com") && !same_host("", ".example.com"));
    let twice = pair("").replace("on bob", "on Alice");
    let said = short(&loaded(&twice));
    assert!(said.iter().any(|one| one.contains("a second `on` section for Alice")), "{said:?}");
    // So are what they have.
    let other = pair("").replace("r0", "r1").replace("10.0.0.", "10.0.1.");
    let other = other.replace("/d0", "/d1").replace("on a", "on A").replace("on b", "on B");
    let said = short(&loaded(&(pair("") + &other)));
    assert!(said[0].contains("r1/0: minor 0 belongs to r0/0 already"), "{said:?}");
}

#[test]
fn small_letters_short_devices_and_skipped_parts_are_taken() {
    clean(&pair("protocol c; net { }"));
    clean(&pair("net { protocol c; }"));
    assert!(short(&loaded(&pair("protocol a;")))[0].contains("only C exists"));
    let text = pair("").replace("device minor 0;", "device drbd3; skip { of what; ever { } }");
    let config = loaded(&text);
    assert_eq!(config.resources[0].hosts[0].volumes[&0].minor, 3);
    assert!(short(&config)[0].contains("/dev/drbd3 is not made"), "{:?}", short(&config));
}

#[test]
fn a_device_with_the_number_of_another_minor_is_refused() {
    for (device, wrong) in [
        (
            "/dev/drbd3 minor 5",
            Some("1:1 error `/dev/drbd3` is not minor 5 | write: device minor 5;"),
        ),
        ("drbd3 minor 5", Some("1:1 error `/dev/drbd3` is not minor 5 | write: device minor 5;")),
        ("/dev/drbd5 minor 5", None),
        ("/dev/drbd_3 minor 5", None),
        ("/dev/nbd3 minor 5", None),
    ] {
        let text = pair("").replace("device minor 0", &format!("device {device}"));
        let errors = short(&loaded(&text));
        let error = errors.iter().find(|one| one.contains("error"));
        let words = |one: &str| one.split_once(' ').map(|(_, words)| words.to_owned());
        assert_eq!(error.and_then(|one| words(one)), wrong.and_then(words), "{device}: {errors:?}");
    }
}

#[test]
fn a_volume_without_a_device_is_told_which_minor_it_has_today() {
    let config = loaded(&pair("").replace("device minor 0; ", ""));
    assert_eq!(config.resources.len(), 1);
    assert_eq!(
        short(&config),
        ["3:12 warning volume 0 has no device: it gets minor 0, and another one when a resource \
          before it comes or goes | write: device minor 0;"]
    );
}

#[test]
fn bytes_that_are_no_text_are_told_where_they_stand_and_not_in_comments() {
    clean(&pair("# caf\u{fffd}"));
    let hint = "write it anew, or the whole file: iconv -f LATIN1 -t UTF-8 FILE";
    for (text, at) in [("\"caf\u{fffd}\"", "2:8"), ("caf\u{fffd}", "2:11")] {
        let said = short(&loaded(&pair(&format!("device {text};"))));
        assert!(said.contains(&format!("{at} error this is not UTF-8 | {hint}")), "{said:?}");
    }
}

#[test]
fn a_word_too_many_is_told_wherever_it_stands() {
    let ends = "host alice; host bob;";
    let path = "host alice address 10.1.0.1:1; host bob address 10.1.0.2:1;";
    // One name is DRBD's.
    clean(&pair(&format!("connection a-b {{ {ends} }}")));
    for (more, said) in [
        (
            format!("connection a b {{ {ends} }}"),
            "2:14 error `b` is too much here | write: connection { ... }",
        ),
        (
            "connection-mesh a { hosts alice bob; }".to_owned(),
            "2:17 error `a` is too much here | write: connection-mesh { ... }",
        ),
        (
            format!("connection {{ path x y {{ {path} }} }}"),
            "2:19 error `x` is too much here | write: path { ... }",
        ),
    ] {
        let config = loaded(&pair(&more));
        assert_eq!(
            (short(&config), config.refused),
            (vec![said.to_owned()], vec!["r0".to_owned()])
        );
    }
}

#[test]
fn a_host_beside_a_path_is_told_where_it_belongs() {
    let path = "path { host alice address 10.1.0.1:1; host bob address 10.1.0.2:1; }";
    let text = pair(&format!("connection {{ host alice; host bob; {path} }}"));
    assert_eq!(
        short(&loaded(&text)),
        ["2:14 error this host stands beside a `path` section: which path it is of is not said | \
          write: path { host A address IP:PORT; host B address IP:PORT; }"]
    );
}

#[test]
fn the_disk_that_linstor_writes_for_the_other_host_is_nobodys() {
    let one = pair("").replace("disk /d0; ", "");
    let one = one.replace("on alice {", "on alice { volume 0 { disk /d0; }");
    let one = one.replace("on bob {", "on bob { volume 0 { disk /dev/drbd/this/is/not/used; }");
    let two = one.replace("r0", "r1").replace("7789", "7790").replace("/d0", "/d1");
    let two = two.replace("minor 0", "minor 1");
    let config = loaded(&(one + &two));
    assert_eq!((short(&config), config.resources.len()), (vec![], 2));
}
