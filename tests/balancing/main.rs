//! How connections are spread, with real packets through real nf_tables.

mod affinity;
#[path = "../begin/mod.rs"]
mod begin;
#[path = "../examples/mod.rs"]
mod examples;
mod methods;
mod world;

use libtest_mimic::Trial;

fn main() {
    let arguments = begin::in_a_user_namespace();
    let trials = vec![
        Trial::test("affinity_one_endpoint_whichever_address_is_used", affinity::one_endpoint_whichever_address_is_used),
        Trial::test(
            "affinity_the_clients_of_an_endpoint_that_goes_are_sent_elsewhere_and_stay_there",
            affinity::the_clients_of_an_endpoint_that_goes_are_sent_elsewhere_and_stay_there,
        ),
        Trial::test(
            "affinity_a_client_is_forgotten_after_its_time_and_new_connections_renew_it",
            affinity::a_client_is_forgotten_after_its_time_and_new_connections_renew_it,
        ),
        Trial::test("affinity_never_leads_past_a_policy_local", affinity::affinity_never_leads_past_a_policy_local),
        Trial::test(
            "affinity_a_restart_writes_nothing_and_forgets_nobody",
            affinity::a_restart_writes_nothing_and_forgets_nobody,
        ),
        Trial::test(
            "affinity_a_table_of_another_layout_takes_over_who_was_sent_where",
            affinity::a_table_of_another_layout_takes_over_who_was_sent_where,
        ),
        Trial::test("affinity_nft_lists_it_and_loads_what_it_lists", affinity::nft_lists_it_and_loads_what_it_lists),
        Trial::test("example_session_affinity", methods::session_affinity),
        Trial::test("example_round_robin_takes_one_after_the_other", methods::round_robin_takes_one_after_the_other),
        Trial::test(
            "example_source_hash_sends_a_client_to_one_endpoint_and_moves_only_those_of_one_that_goes",
            methods::source_hash_sends_a_client_to_one_endpoint_and_moves_only_those_of_one_that_goes,
        ),
        Trial::test("a_hash_sends_each_client_where_the_packet_walk_says", methods::a_hash_sends_each_client_where_the_walk_says),
        Trial::test(
            "a_connection_that_draws_a_slot_that_is_gone_takes_another",
            methods::a_connection_that_draws_a_slot_that_is_gone_takes_another,
        ),
        Trial::test("example_weights_split_between_two_slices", methods::weights_split_between_two_slices),
        Trial::test(
            "example_slow_start_gives_a_newly_ready_endpoint_its_share_in_steps",
            methods::slow_start_gives_a_newly_ready_endpoint_its_share_in_steps,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
