//! Mutates inputs, keeps those that lead somewhere new, reports those that panic.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

/// Longest input, bytes.
const LENGTH_MAX: usize = 8192;
/// Most inputs kept.
const POOL_MAX: usize = 2000;

/// Numbers that tend to matter.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7F, 0xFF, 511, 4096, 0xFFFF, 1 << 20, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX];

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)
}

/// Replays the corpus and the seeds, then mutates them: so many times, or `FUZZ_SECONDS` long.
/// `FUZZ_SEED` gives another stream of mutations, `FUZZ_KEEP=1` adds what led somewhere new
/// to the corpus. `FUZZ_SEEDS`, a folder: only writes the seeds into files there, for another fuzzer.
pub(crate) fn run(
    (name, times): (&str, u64),
    seeds: &[Vec<u8>],
    words: &[&[u8]],
    target: fn(&[u8]) -> String,
) {
    if let Some(folder) = env::var_os("FUZZ_SEEDS") {
        return seeds.iter().for_each(|input| keep(&Path::new(&folder).join(name), name, input));
    }
    let mut pool: Vec<Vec<u8>> = seeds.to_vec();
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(name))
        .map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect())
        .unwrap_or_default();
    files.sort();
    pool.extend(files.iter().map(|path| fs::read(path).expect("a file of the corpus")));
    let mut heard: HashSet<String> = pool.iter().map(|input| judged(name, input, target)).collect();

    let seed = number("FUZZ_SEED").unwrap_or(1);
    let until = number("FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let (mut rounds, mut kept) = (0, 0);
    while until.map_or(rounds < times, |until| Instant::now() < until) {
        rounds += 1;
        let input = mutated(&pool, words, &mut dice);
        let said = judged(name, &input, target);
        if pool.len() < POOL_MAX && heard.insert(said) {
            if env::var_os("FUZZ_KEEP").is_some() {
                keep(&corpus(name), name, &input);
            }
            pool.push(input);
            kept += 1;
        }
    }
    println!("{name}: {rounds} inputs, {} outcomes, {kept} of them new", heard.len());
}

/// What the target says; a panic is shown with the input that caused it.
fn judged(name: &str, input: &[u8], target: fn(&[u8]) -> String) -> String {
    catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|_| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file_name(name, input));
        let _ = fs::write(&path, input);
        panic!(
            "{name} panicked; the input is {}: mend it, and add the file to \
             tests/fuzz/corpus/{name}",
            path.display()
        );
    })
}

fn file_name(name: &str, input: &[u8]) -> String {
    format!("{name}-{:08x}", crc32fast::hash(input))
}

fn keep(folder: &Path, name: &str, input: &[u8]) {
    fs::create_dir_all(folder).expect("the corpus");
    fs::write(folder.join(file_name(name, input)), input).expect("the corpus");
}

fn mutated(pool: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = pool[dice.below(pool.len())].clone();
    for _ in 0..1 + dice.below(4) {
        mutate(&mut bytes, pool, words, dice);
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) {
    let length = bytes.len();
    let at = dice.below(length);
    let piece = at + dice.below((length - at).min(64));
    match dice.below(9) {
        0 if length > 0 => bytes[at] ^= 1 << dice.below(8),
        1 if length > 0 => bytes[at] = dice.below(256) as u8,
        2 => {
            let number = NUMBERS[dice.below(NUMBERS.len())].to_be_bytes();
            let width = [1, 2, 4, 8][dice.below(4)];
            let end = (at + width).min(length);
            bytes.splice(at..end, number[8 - width..].iter().copied());
        }
        3 => drop(bytes.drain(at..piece)),
        4 => {
            let copy = bytes[at..piece].to_vec();
            let to = dice.below(length);
            bytes.splice(to..to, copy);
        }
        5 => bytes.truncate(at),
        6 if !words.is_empty() => {
            let word = words[dice.below(words.len())];
            bytes.splice(at..at, word.iter().copied());
        }
        7 => {
            let other = &pool[dice.below(pool.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[dice.below(other.len()).min(other.len())..]);
        }
        _ => bytes.extend_from_slice(&(dice.below(usize::MAX) as u64).to_be_bytes()),
    }
}
