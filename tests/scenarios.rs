//! Transcripts in `tests/scenarios`: commands to two real cores, and what they log and answer.
//! `TANDEM_REWRITE=1 cargo test --test scenarios` writes them anew; look at what has changed.

use std::path::PathBuf;

#[test]
fn every_transcript_is_what_the_cores_do() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 9, "the transcripts are there");
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let played = tandem::sim::play(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let violation = played.lines().find(|l| l.contains("VIOLATION"));
        assert_eq!(violation, None, "{name}:\n{played}");
        if std::env::var_os("TANDEM_REWRITE").is_some() {
            std::fs::write(&path, played).unwrap();
        } else if played != text {
            let first = text.lines().zip(played.lines()).position(|(a, b)| a != b);
            let at = first.unwrap_or(text.lines().count().min(played.lines().count()));
            let line = |text: &str| text.lines().nth(at).unwrap_or("(end)").to_owned();
            let (old, new) = (line(&text), line(&played));
            wrong.push(format!("{name}:{}:\n  written: {old}\n  is now:  {new}", at + 1));
        }
    }
    assert!(wrong.is_empty(), "{}\nTANDEM_REWRITE=1 writes them anew", wrong.join("\n"));
}
