//! What is legal in DRBD's files beside the common forms, and what stands where nothing is read.

use super::*;

#[test]
fn a_backslash_in_quotes_takes_what_follows_as_it_is() {
    let definition = clean(&pair(r#"handlers { split-brain "echo \"a b\" \\ \c"; }"#));
    let line = &definition.options.handlers[&Handler::SplitBrain];
    assert_eq!(line, r#"echo "a b" \ c"#);
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
fn bytes_that_are_no_text_are_told_where_they_stand_and_not_in_comments() {
    clean(&pair("# caf\u{fffd}"));
    let hint = "write it anew, or the whole file: iconv -f LATIN1 -t UTF-8 FILE";
    for (text, at) in [("\"caf\u{fffd}\"", "2:8"), ("caf\u{fffd}", "2:11")] {
        let said = short(&loaded(&pair(&format!("device {text};"))));
        assert!(said.contains(&format!("{at} error this is not UTF-8 | {hint}")), "{said:?}");
    }
}
