//! A TCP connection stays with the server that it began with, whoever answers new questions meanwhile.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, World, ask, ask_over, connect, server};
use libtest_mimic::{Failed, Trial};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use waypost::lab::Namespace;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("connections_to_a_server_elsewhere_outlive_the_agents_coming_home", coming_home),
        Trial::test("agents_that_end_and_start_cost_no_connection_for_dns", ending),
    ]
}

fn coming_home() -> Result<(), Failed> {
    let world = World::new("coming-home");
    let _server = Agent::behind_kube_dns(&world);
    drop(Agent::at_home(&world));
    world.answered_with(FALLBACK_TTL);
    let mut elsewhere = everywhere(&world);
    let _agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    let mut here = everywhere(&world);
    for (connections, ttl) in [(&mut elsewhere, FALLBACK_TTL), (&mut here, AGENT_TTL)] {
        for connection in connections {
            let place = format!("{:?}", connection);
            assert_eq!(ask_over(connection).map_err(|error| format!("{place}: {error}"))?, ttl, "{place}");
        }
    }
    Ok(())
}

/// A connection from each place to each address, over which one question was answered already.
fn everywhere(world: &World) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for client in [world.client.namespace(), world.node.namespace()] {
        for address in ADDRESSES {
            let mut connection = client.run(|| connect(server(address)).unwrap()).unwrap();
            ask_over(&mut connection).unwrap();
            connections.push(connection);
        }
    }
    connections
}

fn ending() -> Result<(), Failed> {
    let world = World::new("ending");
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    let asked = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [&world.client, &world.client, &world.client]
        .map(|pod| {
            let (namespace, asked, stop) = (pod.namespace().clone(), asked.clone(), stop.clone());
            thread::spawn(move || ask_until(&namespace, &asked, &stop))
        })
        .into();
    for _ in 0..8 {
        assert!(agent.end("-TERM").success());
        agent = Agent::at_home(&world);
        let goal = asked.load(Ordering::Relaxed) + 50;
        while asked.load(Ordering::Relaxed) < goal {
            thread::sleep(Duration::from_millis(1));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(failures, Vec::<String>::new(), "of {} connections", asked.load(Ordering::Relaxed));
    Ok(())
}

/// Asks over one connection after the other, without a pause, and says what failed.
fn ask_until(client: &Namespace, asked: &AtomicUsize, stop: &AtomicBool) -> Vec<String> {
    let work = || {
        let mut failures = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let address = ADDRESSES[asked.fetch_add(1, Ordering::Relaxed) % ADDRESSES.len()];
            failures.extend(ask(server(address), true).err().map(|error| format!("{address}: {error}")));
        }
        failures
    };
    client.run(work).unwrap()
}
