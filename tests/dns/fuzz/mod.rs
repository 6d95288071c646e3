//! Inputs that nobody would write: what comes from outside as bytes must do no harm.
//!
//! `tests/fuzz` has the checks, and programs that try them on inputs which libFuzzer makes, guided by the code that runs (`make fuzz`). Here the same checks
//! run without it, as a part of every test run: all inputs to begin with, the corpus (`tests/fuzz/corpus`), and a bounded number of changes at random, which
//! are always the same. An input that has failed is put into the corpus with its repair.

#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;
mod mutate;
mod run;

use checks::{Clusters, Corefiles, Datagrams, Names, Replies, Snapshots, Streams, Zones};
use run::run;

#[test]
fn a_datagram_gets_a_proper_reply_or_none_and_the_same_by_both_paths() {
    run::<Datagrams>();
}

#[test]
fn a_message_is_handed_on_as_it_was_read_as_far_as_it_fits() {
    run::<Replies>();
}

#[test]
fn a_stream_of_questions_is_answered_question_by_question_wherever_it_is_cut() {
    run::<Streams>();
}

#[test]
fn in_any_cluster_both_paths_say_the_same_and_what_was_before_leaves_nothing_behind() {
    run::<Clusters>();
}

#[test]
fn a_corefile_is_read_or_refused_with_its_line() {
    run::<Corefiles>();
}

#[test]
fn what_dns_was_told_is_read_as_it_was_written_or_refused() {
    run::<Zones>();
}

#[test]
fn a_snapshot_is_read_as_it_was_written_or_refused() {
    run::<Snapshots>();
}

#[test]
fn a_name_as_text_is_the_same_name_again_and_a_resolv_conf_does_no_harm() {
    run::<Names>();
}
