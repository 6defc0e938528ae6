#![no_main]

use libfuzzer_sys::fuzz_target;
use orch_sim::crdt::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::message(bytes));
