//! `tandem-drbd-compat`: DRBD's `drbdadm` and `drbdsetup`, for resources of `tandemd`.

fn main() {
    std::process::exit(tandem::io::control::compat::run(std::env::args_os()));
}
