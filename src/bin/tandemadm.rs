//! `tandemadm`: administers the replicated volumes of this node, as drbdadm does.

fn main() {
    std::process::exit(tandem::io::control::adm::run(std::env::args_os()));
}
