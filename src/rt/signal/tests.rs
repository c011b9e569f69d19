#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, kill_process};

use super::*;

const HELPER: &str = "SHADOWCAT_TEST_SIGNALS";

/// Signals belong to a process, so this test runs itself again as a process of its own.
#[test]
#[expect(clippy::disallowed_methods, reason = "starts the test itself, not a server")]
fn the_first_signal_drains_and_the_second_stops() {
    if std::env::var_os(HELPER).is_some() {
        return helper();
    }
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rt::signal::tests::the_first_signal_drains_and_the_second_stops", "--nocapture"])
        .env(HELPER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&process);
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut expect = |line: &str| assert!(said.any(|said| said.ends_with(line)), "not said: {line}");

    expect("listening");
    kill_process(pid, rustix::process::Signal::TERM).unwrap();
    expect("Terminate 143: drain true, stop false");
    kill_process(pid, rustix::process::Signal::INT).unwrap();
    expect("Interrupt 130: drain true, stop true");
    assert!(process.wait().unwrap().success());
}

#[expect(clippy::print_stdout, reason = "how the helper reports")]
fn helper() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = Tasks::new();
        let mut signals = Signals::listen().unwrap();
        println!("listening");
        for _ in 0..2 {
            let signal = signals.obey(&tasks).await;
            let (drain, stop) = (tasks.drain().is_cancelled(), tasks.stop().is_cancelled());
            println!("{signal:?} {}: drain {drain}, stop {stop}", signal.exit_code());
        }
    });
}
