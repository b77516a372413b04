//! `tandemd`: keeps this node's copies of the replicated volumes and serves them over NBD.

fn main() {
    std::process::exit(tandem::io::control::daemon::run(std::env::args_os()));
}
