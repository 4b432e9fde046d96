//! What Ctrl-C does: it ends the program, except where a command watches for it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;

use super::INTERRUPTED;

/// Ctrl-C ends the program at once.
const ENDS_PROGRAM: u8 = 0;
/// A command watches for it.
const WATCHED: u8 = 1;
/// It was pressed while a command watched. A second one ends the program.
const PRESSED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(ENDS_PROGRAM);

/// Takes Ctrl-C over from the system.
///
/// # Errors
/// If the system refuses.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let pressed = STATE.compare_exchange(WATCHED, PRESSED, Ordering::SeqCst, Ordering::SeqCst);
        if pressed.is_err() {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot handle Ctrl-C")
}

/// While it lives, Ctrl-C sets a mark instead of ending the program. A mark that nobody saw ends the program
/// when the watch does, so that no press is lost.
#[derive(Debug)]
pub struct Watch {
    seen: Cell<bool>,
}

impl Watch {
    /// Begins to watch.
    pub fn begin() -> Self {
        STATE.store(WATCHED, Ordering::SeqCst);
        Watch {
            seen: Cell::new(false),
        }
    }

    /// Whether Ctrl-C was pressed since.
    pub fn pressed(&self) -> bool {
        let pressed = STATE.load(Ordering::SeqCst) == PRESSED;
        self.seen.set(self.seen.get() || pressed);
        pressed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let state = STATE.swap(ENDS_PROGRAM, Ordering::SeqCst);
        // Pressed after the work looked for the last time: the user waits for an end.
        if state == PRESSED && !self.seen.get() {
            std::process::exit(i32::from(INTERRUPTED));
        }
    }
}
