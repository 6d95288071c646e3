//! Servers that know nothing: what sockets cost whatever is answered, and an upstream server that is never the slowest.

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

const BURST: usize = 32;
/// The argument that makes this program send every datagram back.
pub const FLOOR: &str = "--floor";
/// The argument that makes this program an upstream server.
pub const UPSTREAM: &str = "--upstream";

/// The address that everything has at the upstream server.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TTL: u16 = 300;

/// Becomes the responder of this name; returns if there is none.
pub fn become_one(name: &str, address: &str) {
    let address = || address.parse().expect("the address to listen on");
    match name {
        FLOOR => respond(address(), |_, length| length),
        UPSTREAM => respond(address(), with_an_address),
        _ => {}
    }
}

/// Makes a response of each datagram: `change` gets it with its length, and says how long it is then.
fn respond(address: SocketAddr, change: fn(&mut [u8; 1500], usize) -> usize) -> ! {
    let socket = UdpSocket::bind(address).unwrap();
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BURST, None);
    let mut buffers = [[0_u8; 1500]; BURST];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None).unwrap();
        let mut met: Vec<(usize, SocketAddrAny)> = received
            .map(|message| {
                let client = *message.address.unwrap().as_sockaddr_in().unwrap();
                (message.bytes, SocketAddr::from((client.ip(), client.port())).into())
            })
            .collect();
        for (buffer, (length, _)) in buffers.iter_mut().zip(&mut met) {
            buffer[2] |= 0x80;
            *length = change(buffer, *length);
        }
        let slices: Vec<_> = met.iter().zip(&buffers).map(|((length, _), buffer)| [IoSlice::new(&buffer[..*length])]).collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let messages = met.iter().zip(&slices).zip(&mut controls);
        let mut messages: Vec<_> =
            messages.map(|(((_, client), slice), control)| MMsgHdr::new_with_addr(client, slice, control)).collect();
        let mut sent = 0;
        while sent < messages.len() {
            sent += sendmmsg(&socket, &mut messages[sent..], SendFlags::empty()).unwrap();
        }
    }
}

/// One address for whatever is asked; without EDNS.
fn with_an_address(buffer: &mut [u8; 1500], _: usize) -> usize {
    let ([ttl_high, ttl_low], [a, b, c, d]) = (TTL.to_be_bytes(), ELSEWHERE.octets());
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, ttl_high, ttl_low, 0, 4, a, b, c, d];
    let mut end = 12;
    while buffer[end] != 0 {
        end += usize::from(buffer[end]) + 1;
    }
    end += 5;
    // Recursion is available; one question, one answer, nothing else.
    buffer[3] = 0x80;
    buffer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    buffer[end..end + record.len()].copy_from_slice(&record);
    end + record.len()
}
