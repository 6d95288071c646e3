//! Questions at a steady rate, whether or not earlier ones are answered.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Questions a second.
const RATE: u32 = 20_000;
/// For so long they are asked.
pub const PACED: Duration = Duration::from_secs(4);
/// An answer that takes longer counts as lost.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// How long each answer takes, in seconds; one that does not come counts as long as the client's patience.
pub fn ask_at_a_pace(client: &UdpSocket, questions: &[Vec<u8>]) -> Vec<f64> {
    client.set_nonblocking(true).unwrap();
    let count = (f64::from(RATE) * PACED.as_secs_f64()) as usize;
    // By the number that the question carries.
    let mut sent: Vec<Option<Instant>> = vec![None; 1 << 16];
    let (mut latencies, mut next, mut answer) = (Vec::with_capacity(count), 0, [0; 1500]);
    let began = Instant::now();
    while next < count || (latencies.len() < count && began.elapsed() < PACED + PATIENCE) {
        let due = (began.elapsed().as_secs_f64() * f64::from(RATE)) as usize;
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
        std::hint::spin_loop();
    }
    latencies.resize(count, PATIENCE.as_secs_f64());
    latencies
}
