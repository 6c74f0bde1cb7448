//! The low-water mark of a TCP socket (`SO_RCVLOWAT`, tcp(7) and socket(7)): so many bytes must have come before the
//! kernel wakes whoever waits for them.

use std::os::fd::{AsRawFd, OwnedFd};

/// A second handle on the socket that the stream's bytes come by; below TLS, if there is TLS.
pub(super) struct LowWater {
    socket: OwnedFd,
    bytes: i32,
}

impl LowWater {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, bytes: 1 }
    }

    /// Sets the mark. Bytes that are there already and reach the new mark wake the reader. False if the system does
    /// not take it; then nothing has changed.
    pub(super) fn set(&mut self, bytes: i32) -> bool {
        if self.bytes == bytes {
            return true;
        }
        let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
        // SAFETY: the descriptor is open as long as `self.socket` lives, and the kernel only reads `length` bytes from
        // the address of an `i32` that outlives the call.
        #[expect(unsafe_code, reason = "no safe binding of this option exists in rustix or socket2")]
        let outcome = unsafe {
            let value = (&raw const bytes).cast::<libc::c_void>();
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
        };
        if outcome == 0 {
            self.bytes = bytes;
        }
        outcome == 0
    }
}
