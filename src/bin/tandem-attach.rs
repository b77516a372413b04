//! `tandem-attach`: attaches a volume as the kernel's `/dev/nbdN`, and keeps it attached.

fn main() {
    std::process::exit(tandem::io::attach::run(std::env::args_os()));
}
