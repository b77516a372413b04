//! Several files and levels: what one of them spoils for the others.

use super::*;

#[test]
fn a_syntax_error_stops_its_file_and_no_other() {
    let good = pair("").replace("r0", "good").replace("/d0", "/d9").replace("7789", "1");
    let good = good.replace("minor 0", "minor 9");
    for (broken, expected) in [
        (
            pair("").replace(".1:7789; }", ".1:7789 }"),
            "4:33 error `;` is missing after `10.0.0.1:7789`",
        ),
        (pair("net { protocol C;"), "2:5 error the section `net` that opens here is not"),
        (pair("}"), "3:1 error `volume` stands outside a resource"),
        (pair(";"), "2:1 error a `;` with nothing before it"),
        (pair("net { { } }"), "2:7 error a section without a name"),
        (pair("disk \"/x;"), "2:6 error this quote is not closed on its line"),
        (pair("net { a\u{1}b 1; }"), "2:8 error the character U+0001 has no place"),
        (pair("") + "resource r1 {", "7:13 error the section `resource` that opens here"),
        (pair("net {") + "resource r1 { }", "2:5 error the section `net` that opens here is not"),
        (pair("").replace("/d0;", "/d0\n"), "3:36 error `;` is missing after `/d0`"),
        (pair("disk /x\nnet { }"), "2:8 error `;` is missing after `/x`"),
        (
            pair("net { shared-secret HUSH }"),
            "2:25 error `;` is missing after the value of `shared-secret`",
        ),
        (
            pair("net { timeout 60 shared-secret-old \"HUSH }"),
            "2:36 error `;` is missing after the value of `shared-secret-old`",
        ),
        (
            pair("net { shared_secret HUSH }"),
            "2:25 error `;` is missing after the value of `shared_secret`",
        ),
        (pair("net { shared_secret HUSH; timeout 5 }"), "2:36 error `;` is missing after `5`"),
        (pair("net { timeout sharedsecrt HUSH; ; }"), "2:33 error a `;` with nothing before it"),
        (pair(&"a { ".repeat(40)), "2:47 error sections are nested too deep"),
    ] {
        let main = "include \"d/*.res\";";
        let config = load(&files(&[("t", main), ("d/a.res", &broken), ("d/b.res", &good)]), "t");
        let found = short(&config);
        assert!(found.iter().any(|f| f.starts_with(expected)), "{found:#?}");
        assert!(found.iter().all(|f| !f.contains("HUSH")), "{found:#?}");
        assert!(config.is_refused("r0"), "{broken}");
        assert!(config.resource("good").is_some(), "{found:#?}");
        assert!(
            found.iter().all(|f| !f.contains("has no address") && !f.contains("no volume")),
            "nothing is called missing that may be behind the error: {found:#?}"
        );
    }
}

#[test]
fn where_common_is_unknown_nothing_is_started() {
    for (text, expected) in [
        ("commn { net { timeout 5; } }", "did you mean `common`?"),
        ("common { nett { timeout 5; } }", "did you mean `net`?"),
        ("common { net { timeot 5; } }", "did you mean `timeout`?"),
        ("common { net { timeout 5 } }", "end the statement with `;`"),
        ("include \"missing.conf\";", ""),
        ("include t.conf", "end the statement with `;`"),
        ("common { net { timeout 5", "end the statement with `;`"),
    ] {
        let config = loaded(&format!("{text}\n{}", pair("")));
        let hints = config.findings.iter().map(|finding| finding.hint.as_str());
        assert!(hints.into_iter().any(|hint| hint == expected), "{:#?}", short(&config));
        assert!(config.is_refused("r0") && config.resources.is_empty(), "{text}");
    }
}

#[test]
fn a_bad_value_in_common_refuses_those_that_inherit_it() {
    let other = pair("net { ping-timeout 5; }").replace("r0", "r1").replace("/d0", "/d1");
    let other = other.replace("7789", "2").replace("minor 0", "minor 1");
    let text = format!("common {{ net {{ ping-timeout 400; }} }}\n{}{other}", pair(""));
    let config = loaded(&text);
    assert_eq!(config.findings.len(), 1);
    assert_eq!(config.findings[0].resource, None);
    assert!(config.is_refused("r0") && config.resource("r1").is_some());
}

#[test]
fn includes_are_read_once_in_order_and_beside_their_file() {
    let r = |name: &str, n: &str| {
        let text = pair("").replace("r0", name).replace("/d0", &format!("/d{n}"));
        text.replace("minor 0", &format!("minor {n}")).replace("7789", &format!("778{n}"))
    };
    let all = files(&[
        ("etc/t.conf", "include \"t.d/*.res\"; include \"t.d/b.res\"; include \"t.d/no-*\";"),
        ("etc/t.d/b.res", &r("b", "1")),
        ("etc/t.d/a.res", &(r("a", "2") + "include \"more/c.conf\";")),
        ("etc/t.d/more/c.conf", &r("c", "3")),
        ("etc/t.d/.hidden.res", "garbage {"),
    ]);
    let config = load(&all, "etc/t.conf");
    assert_eq!(short(&config), Vec::<String>::new());
    let names: Vec<&str> = config.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a", "c", "b"]);

    let circle = files(&[("a", "include b;"), ("b", "include a;")]);
    assert_eq!(short(&load(&circle, "a")), ["1:9 error a includes itself | remove this line"]);
    let missing = load(&files(&[]), "x.conf");
    assert_eq!(
        missing.findings[0].to_string(),
        "x.conf: error: cannot read x.conf: No such file or directory"
    );
}
