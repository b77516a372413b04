//! What comes up by itself after crashes of the daemon, and how often.

use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::io::control::registry::{Entry, Registry};

fn settings(dir: &Path) -> Settings {
    Settings {
        config: "/etc/tandem.conf".into(),
        node: "alice".to_owned(),
        record: None,
        state_dir: dir.join("state"),
        run_dir: dir.to_owned(),
        remembered: Remembered::new(dir),
        nbd_socket: dir.join("nbd.sock"),
        program: dir.join("tandemd"),
        max_parallel_resyncs: 0,
    }
}

/// r0, without a disk.
fn definition(dir: &Path) -> Definition {
    let text = "resource r0 { volume 0 { device minor 0; disk none; } \
                on alice { node-id 0; address 127.0.0.1:7789; } \
                on bob { node-id 1; address 127.0.0.2:7789; \
                volume 0 { device minor 0; disk /dev/x; meta-disk internal; } } }";
    let file = dir.join("r0.res");
    std::fs::write(&file, text).unwrap();
    let files = crate::io::config_files::ConfigFiles;
    let config = crate::config::load(&files, &file.display().to_string());
    assert!(!config.has_errors(), "{:?}", config.findings);
    config.resources[0].clone()
}

/// A daemon that ends with a crash when `lives` has ended.
fn until_it_crashes<F: Future<Output = ()>>(dir: &Path, lives: impl FnOnce(Rc<Registry>) -> F) {
    tokio_uring::start(async {
        let (shell, orders) = (shell(mpsc::channel().0, <_>::default(), <_>::default()), 1);
        let registry = Registry::new(settings(dir), shell, tokio::sync::mpsc::channel(orders).0);
        lives(registry).await;
    });
}

async fn turns_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

/// It comes up by itself, and has dialled, which is the last thing of all.
async fn comes_up(registry: &Rc<Registry>) -> Rc<Entry> {
    registry.up_after_a_crash();
    let dials = |entry: &Entry| entry.connection_state(1) != ConnectionState::StandAlone;
    turns_until("it is not up", || registry.entry("r0").is_some_and(|entry| dials(&entry))).await;
    registry.entry("r0").unwrap()
}

async fn stays_down(registry: Rc<Registry>) {
    registry.up_after_a_crash();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(registry.entry("r0").is_none());
    }
}

#[test]
fn what_crashes_the_daemon_whenever_it_has_come_up_does_so_four_times_until_it_is_ordered_up() {
    let dir = tempfile::tempdir().unwrap();
    let r0 = &definition(dir.path());
    for _ in 0..2 {
        until_it_crashes(dir.path(), |registry| async move {
            registry.up(r0).await.unwrap();
        });
        for _ in 0..3 {
            until_it_crashes(dir.path(), |registry| async move {
                comes_up(&registry).await;
            });
        }
        for _ in 0..2 {
            until_it_crashes(dir.path(), stays_down);
        }
    }
}

#[test]
fn a_change_of_what_came_up_after_a_crash_does_not_begin_the_count_anew() {
    for is_of_peers in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let r0 = &definition(dir.path());
        until_it_crashes(dir.path(), |registry| async move {
            registry.up(r0).await.unwrap();
        });
        for _ in 0..3 {
            until_it_crashes(dir.path(), |registry| async move {
                let entry = comes_up(&registry).await;
                match is_of_peers {
                    false => entry.change(|running| running.options.busy_poll_us += 1),
                    true => disconnects_and_dials(&entry).await,
                }
            });
        }
        until_it_crashes(dir.path(), stays_down);
    }
}

async fn disconnects_and_dials(entry: &Rc<Entry>) {
    for apart in [true, false] {
        let command = match apart {
            true => Command::Disconnect { peer: 1, force: false, for_ms: None },
            false => Command::Connect { peer: 1, discard_my_data: false, tentative: false },
        };
        entry.order(command).await.unwrap();
        turns_until("it is not kept", || entry.apart.borrow().contains(&1) == apart).await;
    }
}

#[test]
fn an_up_by_order_begins_the_count_anew_also_where_it_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let r0 = &definition(dir.path());
    until_it_crashes(dir.path(), |registry| async move {
        registry.up(r0).await.unwrap();
    });
    for round in 0..6 {
        until_it_crashes(dir.path(), |registry| async move {
            comes_up(&registry).await;
            if round % 3 == 2 {
                registry.up(r0).await.unwrap();
            }
        });
    }
}
