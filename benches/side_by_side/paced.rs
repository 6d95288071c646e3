//! Questions at a steady rate, whether or not earlier ones are answered.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Questions a second, where nothing else is to be done.
pub const RATE: u32 = 20_000;
/// For so long they are asked.
pub const PACED: Duration = Duration::from_secs(4);
/// An answer that takes longer counts as lost.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// Whoever sleeps for less is late for the next question. Nobody else looks all the time, which takes a processor from the server.
const SHORTEST_SLEEP: Duration = Duration::from_micros(100);

/// How long each answer takes, in seconds, to so many questions a second; one that does not come counts as long as the client's patience.
pub fn ask_at_a_pace(client: &UdpSocket, questions: &[Vec<u8>], rate: u32) -> Vec<f64> {
    client.set_nonblocking(true).unwrap();
    let count = (f64::from(rate) * PACED.as_secs_f64()) as usize;
    // By the number that the question carries.
    let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
    let (mut latencies, mut next, mut answer) = (Vec::with_capacity(count), 0, [0; 1500]);
    let began = Instant::now();
    while next < count || (latencies.len() < count && began.elapsed() < PACED + PATIENCE) {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize;
        while next < due.min(count) {
            let mut question = questions[next % questions.len()].clone();
            question[..2].copy_from_slice(&(next as u16).to_be_bytes());
            sent[usize::from(next as u16)] = Some(Instant::now());
            // A full buffer is a lost question.
            let _ = client.send(&question);
            next += 1;
        }
        while client.recv(&mut answer).is_ok() {
            let number = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
            latencies.extend(sent[number].take().map(|sent| sent.elapsed().as_secs_f64()));
        }
        let then = if next < count { Duration::from_secs_f64((next + 1) as f64 / f64::from(rate)) } else { PACED + PATIENCE };
        wait(client, then.saturating_sub(began.elapsed()));
    }
    latencies.resize(count, PATIENCE.as_secs_f64());
    latencies
}

/// How many of these answers have not come, as a share.
pub fn lost(latencies: &[f64]) -> f64 {
    latencies.iter().filter(|latency| **latency >= PATIENCE.as_secs_f64()).count() as f64 / latencies.len().max(1) as f64
}

/// Until an answer comes, but no longer than that.
fn wait(client: &UdpSocket, time: Duration) {
    if time < SHORTEST_SLEEP {
        return std::hint::spin_loop();
    }
    let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // Whatever comes of it, the client looks.
    let _ = poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&time));
}
