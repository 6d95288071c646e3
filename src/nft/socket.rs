//! A netlink socket to netfilter: batches out, dumps in.

use super::kernel::NftError;
use super::wire::{ACK, BATCH_BEGIN, BATCH_END, DONE, DUMP, DUMP_INTERRUPTED, ERROR, Message, SUBSYSTEM, Writer, messages};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A dump that was interrupted by a change is begun anew this often.
const DUMP_ATTEMPTS: usize = 20;
/// What we ask for: 300,000 elements in one atomic batch.
const SEND_BUFFER: usize = 32 << 20;
const RECEIVE_BUFFER: usize = 4 << 20;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// A netlink socket to netfilter (nf_tables, connection tracking) in the network namespace of the thread that opened it.
pub struct NfSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    send_limit: usize,
}

impl NfSocket {
    /// Opens a socket.
    pub fn open() -> Result<NfSocket, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        socket.bind_auto().map_err(NftError::Open)?;
        // Errors come back without the whole failed message, but with the kernel's own words where it has some.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        // Only root in the first user namespace may go beyond the system's limits; elsewhere batches are cut smaller.
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let send_limit = getsockopt(&socket, sockopt::SndBuf).map_err(|errno| NftError::Open(errno.into()))?;
        Ok(NfSocket { socket, sequence: 0, buffer: vec![0; 1 << 17], send_limit })
    }

    /// The number that identifies the socket in its network namespace.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn port_id(&self) -> Result<u32, NftError> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(NftError::Open)?;
        Ok(address.port_number())
    }

    /// How many bytes fit into one batch.
    pub fn send_limit(&self) -> usize {
        self.send_limit / 4 * 3
    }

    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Commits the messages that `fill` writes as one batch: all of them or none.
    ///
    /// # Errors
    /// When the kernel refuses them, or the socket fails.
    pub fn batch(&mut self, fill: impl FnOnce(&mut NfSocket, &mut Writer)) -> Result<(), NftError> {
        self.send_batch(true, fill)?.outcome()
    }

    /// Has the kernel look over what [`NfSocket::batch`] would commit, and drop it: a batch without an end is never committed (`nft --check` does so).
    ///
    /// # Errors
    /// As [`NfSocket::batch`].
    pub fn try_batch(&mut self, fill: impl FnOnce(&mut NfSocket, &mut Writer)) -> Result<(), NftError> {
        self.send_batch(false, fill)?.outcome()
    }

    /// Whether the kernel is built with all that a batch needs, by [`NfSocket::try_batch`]: false where it lacks something (EOPNOTSUPP).
    ///
    /// # Errors
    /// When the kernel refuses it for another reason, or the socket fails.
    pub fn supports(&mut self, fill: impl FnOnce(&mut NfSocket, &mut Writer)) -> Result<bool, NftError> {
        self.send_batch(false, fill)?.support()
    }

    fn send_batch(&mut self, with_end: bool, fill: impl FnOnce(&mut NfSocket, &mut Writer)) -> Result<Answers, NftError> {
        let mut writer = Writer::default();
        writer.begin_raw(BATCH_BEGIN, ACK, self.next_sequence(), 0, SUBSYSTEM);
        writer.end();
        fill(self, &mut writer);
        if with_end {
            writer.begin_raw(BATCH_END, 0, self.next_sequence(), 0, SUBSYSTEM);
            writer.end();
        }
        self.drain();
        send(self.socket.as_raw_fd(), &writer.finish(), MsgFlags::empty())
            .map_err(|errno| socket_error("sending a batch", errno))?;
        self.answers()
    }

    /// The kernel works a batch off while we send it, so every answer is there when `send` returns.
    fn answers(&mut self) -> Result<Answers, NftError> {
        let mut answers = Answers::default();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => answers.failures.extend(messages(&self.buffer[..length]).filter_map(|message| failure(&message))),
                Err(Errno::EAGAIN) => return Ok(answers),
                // More complaints than the socket can hold: the batch failed all the same.
                Err(Errno::ENOBUFS) => answers.overflow = true,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(socket_error("reading the answers to a batch", errno)),
            }
        }
    }

    /// Asks for a single object and reads something from the answer.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn get<T>(&mut self, kind: u16, read: impl Fn(&Message<'_>) -> Option<T>) -> Result<Option<T>, NftError> {
        self.ask(kind, 0, |_| {}, read)
    }

    /// Sends one message, whose type holds its subsystem, and waits for its acknowledgement: the error that the kernel answers with, if any.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn acknowledged(&mut self, kind: u16, protocol: u8, fill: impl FnOnce(&mut Writer)) -> Result<Option<Errno>, NftError> {
        self.drain();
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        writer.begin_raw(kind, ACK, sequence, protocol, 0);
        fill(&mut writer);
        writer.end();
        send(self.socket.as_raw_fd(), &writer.finish(), MsgFlags::empty())
            .map_err(|errno| socket_error("sending a message", errno))?;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let mut answers = messages(&self.buffer[..length]).filter(|message| message.sequence == sequence);
                    if let Some(answer) = answers.next() {
                        return Ok(failure(&answer).map(|(errno, _)| errno));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(socket_error("reading an acknowledgement", errno)),
            }
        }
    }

    /// Asks for one thing and reads it from the answer; `None` where the kernel has none.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn ask<T>(
        &mut self,
        kind: u16,
        protocol: u8,
        fill: impl Fn(&mut Writer),
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, NftError> {
        self.drain();
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        writer.begin(kind, 0, sequence, protocol);
        fill(&mut writer);
        writer.end();
        send(self.socket.as_raw_fd(), &writer.finish(), MsgFlags::empty())
            .map_err(|errno| socket_error("asking for an object", errno))?;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let mut answers = messages(&self.buffer[..length]).filter(|message| message.sequence == sequence);
                    if let Some(answer) = answers.next() {
                        return Ok(if answer.kind == ERROR { None } else { read(&answer) });
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(socket_error("reading an object", errno)),
            }
        }
    }

    /// Dumps everything of one kind, if what it belongs to is there; else nothing.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn dump_if_there<T: Default>(
        &mut self,
        kind: u16,
        protocol: u8,
        fill: impl Fn(&mut Writer),
        mut each: impl FnMut(&mut T, &Message<'_>),
    ) -> Result<T, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut collected = T::default();
            // A table that goes away in the middle interrupts a dump, as one does that never was there.
            if self.dump_once(SUBSYSTEM << 8 | kind, protocol, &fill, |message| each(&mut collected, message))? {
                return Ok(collected);
            }
        }
        Ok(T::default())
    }

    /// Dumps everything of one kind of nf_tables into `collected`, to which `each` adds each message. When a change interrupts it, it begins anew, after
    /// `restart` has taken away what was added.
    ///
    /// # Errors
    /// When the socket fails, or the kernel refuses, or it is interrupted again and again.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        protocol: u8,
        fill: impl Fn(&mut Writer),
        mut each: impl FnMut(&mut T, &Message<'_>),
        (mut collected, restart): (T, impl Fn(&mut T)),
    ) -> Result<T, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            if self.dump_once(SUBSYSTEM << 8 | kind, protocol, &fill, |message| each(&mut collected, message))? {
                return Ok(collected);
            }
            restart(&mut collected);
        }
        Err(NftError::Unsettled)
    }

    /// Dumps once; the type holds its subsystem. False when a change interrupted the dump: it is not complete then.
    ///
    /// # Errors
    /// When the socket fails, or the kernel refuses.
    pub fn dump_once(
        &mut self,
        kind: u16,
        protocol: u8,
        fill: &impl Fn(&mut Writer),
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, NftError> {
        self.drain();
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        writer.begin_raw(kind, DUMP, sequence, protocol, 0);
        fill(&mut writer);
        writer.end();
        send(self.socket.as_raw_fd(), &writer.finish(), MsgFlags::empty())
            .map_err(|errno| socket_error("asking for a dump", errno))?;
        let mut dump = Dump { sequence, whole: true };
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => return Ok(false),
                Err(errno) => return Err(socket_error("reading a dump", errno)),
            };
            if let Some(whole) = dump.take(&self.buffer[..length], &mut each)? {
                return Ok(whole);
            }
        }
    }

    /// Throws away what an earlier, failed exchange may have left.
    fn drain(&mut self) {
        // Any other failure than an overflow would come again and again; it shows at the send that follows.
        while matches!(
            recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT),
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR)
        ) {}
    }
}

/// What the kernel complains of in a batch.
#[derive(Default)]
struct Answers {
    failures: Vec<(Errno, Option<String>)>,
    overflow: bool,
}

impl Answers {
    fn support(self) -> Result<bool, NftError> {
        match self.failures.iter().any(|(errno, _)| *errno == Errno::EOPNOTSUPP) {
            true => Ok(false),
            false => self.outcome().map(|()| true),
        }
    }

    fn outcome(self) -> Result<(), NftError> {
        let Answers { failures, overflow } = self;
        if failures.iter().any(|(errno, _)| matches!(errno, Errno::EPERM | Errno::EACCES)) {
            return Err(NftError::NotPermitted(Errno::EPERM.into()));
        }
        if failures.is_empty() && !overflow {
            return Ok(());
        }
        let mut reasons: Vec<String> = failures.into_iter().map(describe).collect();
        reasons.dedup();
        reasons.truncate(4);
        if overflow {
            reasons.push("and more".into());
        }
        Err(NftError::Rejected(reasons))
    }
}

/// A dump under way, which comes in many datagrams.
struct Dump {
    sequence: u32,
    /// Whether no change has interrupted it so far.
    whole: bool,
}

impl Dump {
    /// Takes a datagram. At the end of the dump: whether it is complete.
    fn take(&mut self, datagram: &[u8], each: &mut impl FnMut(&Message<'_>)) -> Result<Option<bool>, NftError> {
        for message in messages(datagram).filter(|message| message.sequence == self.sequence) {
            self.whole &= message.flags & DUMP_INTERRUPTED == 0;
            if !matches!(message.kind, DONE | ERROR) {
                each(&message);
                continue;
            }
            // What goes wrong half way through stands in the message that ends the dump (`netlink_dump_done`).
            return match code(&message) {
                None => Ok(Some(self.whole)),
                // What is dumped went away meanwhile, or has changed.
                Some(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => Ok(Some(false)),
                Some(errno) => Err(socket_error("reading a dump", errno)),
            };
        }
        Ok(None)
    }
}

impl AsFd for NfSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The error that a message reports, with the kernel's explanation; `None` for an acknowledgement.
fn failure(message: &Message<'_>) -> Option<(Errno, Option<String>)> {
    if message.kind != ERROR {
        return None;
    }
    let errno = code(message)?;
    // Behind the code stand the header of the failed message (NETLINK_CAP_ACK) and the kernel's remarks.
    let remarks = super::wire::Attributes(message.body.get(4 + super::wire::HEADER..).unwrap_or_default());
    Some((errno, remarks.string(ERROR_TEXT).map(str::to_string)))
}

/// The error at the beginning of a message that ends something.
fn code(message: &Message<'_>) -> Option<Errno> {
    let code = i32::from_ne_bytes(*message.body.first_chunk()?);
    (code < 0).then(|| Errno::from_raw(-code))
}

fn describe((errno, text): (Errno, Option<String>)) -> String {
    let meaning = match errno {
        Errno::EEXIST => "something in it exists already (EEXIST)".to_string(),
        Errno::ENOENT => "something that it needs or removes is not there (ENOENT)".to_string(),
        Errno::EOPNOTSUPP => "the kernel lacks an nf_tables feature that it needs (EOPNOTSUPP)".to_string(),
        other => format!("{} ({other:?})", other.desc()),
    };
    text.map_or(meaning.clone(), |text| format!("{meaning}: {text}"))
}

fn socket_error(action: &'static str, errno: Errno) -> NftError {
    let error = io::Error::from(errno);
    match errno {
        Errno::EPERM | Errno::EACCES => NftError::NotPermitted(error),
        _ => NftError::Socket { action, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram of a dump: messages of these types, each with flags and what follows its header.
    fn datagram(parts: &[(u16, u16, i32)]) -> Vec<u8> {
        let message = |(kind, flags, body): &(u16, u16, i32)| {
            let header = [&20u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &7u32.to_ne_bytes(), &[0; 4]];
            [&header.concat()[..], &body.to_ne_bytes()].concat()
        };
        parts.iter().flat_map(message).collect()
    }

    #[test]
    fn a_kernel_without_a_feature_is_told_from_one_that_refuses_for_another_reason() {
        let answers =
            |errnos: &[Errno]| Answers { failures: errnos.iter().map(|errno| (*errno, None)).collect(), overflow: false };
        assert!(matches!(answers(&[]).support(), Ok(true)));
        assert!(matches!(answers(&[Errno::EOPNOTSUPP]).support(), Ok(false)));
        assert!(matches!(answers(&[Errno::ENOMEM]).support(), Err(NftError::Rejected(_))));
        assert!(matches!(answers(&[Errno::EPERM]).support(), Err(NftError::NotPermitted(_))));
    }

    const ELEMENTS: u16 = SUBSYSTEM << 8 | 12;

    /// What becomes of a dump that comes in these datagrams, and how many of its messages were taken.
    fn dump(datagrams: &[&[(u16, u16, i32)]]) -> (Result<Option<bool>, NftError>, usize) {
        let (mut dump, mut taken) = (Dump { sequence: 7, whole: true }, 0);
        for parts in datagrams {
            let result = dump.take(&datagram(parts), &mut |_| taken += 1);
            if !matches!(result, Ok(None)) {
                return (result, taken);
            }
        }
        (Ok(None), taken)
    }

    #[test]
    fn a_dump_is_complete_when_its_end_says_so_and_nothing_interrupted_it() {
        let part = (ELEMENTS, 0, 0);
        assert!(matches!(dump(&[&[part, part], &[part]]), (Ok(None), 3)));
        assert!(matches!(dump(&[&[part, part], &[part, (DONE, 0, 0)]]), (Ok(Some(true)), 3)));
        let interrupted = (ELEMENTS, DUMP_INTERRUPTED, 0);
        assert!(matches!(dump(&[&[part, interrupted], &[part, (DONE, 0, 0)]]), (Ok(Some(false)), 3)));
        assert!(matches!(dump(&[&[part], &[(DONE, DUMP_INTERRUPTED, 0)]]), (Ok(Some(false)), 1)));
    }

    #[test]
    fn what_goes_wrong_half_way_through_a_dump_is_not_taken_for_its_end() {
        let part = (ELEMENTS, 0, 0);
        for errno in [Errno::ENOENT, Errno::EINTR, Errno::EAGAIN] {
            let code = -(errno as i32);
            assert!(matches!(dump(&[&[part], &[(DONE, 0, code)]]), (Ok(Some(false)), 1)), "{errno}: it is to be made again");
            assert!(matches!(dump(&[&[(ERROR, 0, code)]]), (Ok(Some(false)), 0)));
        }
        let out_of_memory = -(Errno::ENOMEM as i32);
        assert!(matches!(dump(&[&[part], &[(DONE, 0, out_of_memory)]]), (Err(NftError::Socket { .. }), 1)));
        let forbidden = -(Errno::EPERM as i32);
        assert!(matches!(dump(&[&[(ERROR, 0, forbidden)]]), (Err(NftError::NotPermitted(_)), 0)));
    }
}
