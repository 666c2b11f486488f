//! [`Server`]: listens, and has every connection answered by a thread of its own.

use super::error::ControlError;
use super::json::Json;
use super::verb::{Controlled, Verb};
use crate::guest::service::aside;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, thread};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections at once; who comes then is told so.
pub const CONNECTIONS: usize = 16;

/// A longer line is nobody's verb.
const LINE: u64 = 4096;

/// A client that takes so long to read its answer gets none.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that answers. Dropped, it is gone; answers that are being made are finished.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    listening: Option<thread::JoinHandle<()>>,
}

struct Shared {
    controlled: Arc<dyn Controlled>,
    /// Connections there are.
    connections: AtomicUsize,
    ending: AtomicBool,
}

// === impl Server ===

impl Server {
    /// Listen at `path`. A socket that was there is replaced: nobody can listen at it, for its name is our process's number.
    ///
    /// # Errors
    /// [`ControlError::Socket`], [`ControlError::Thread`].
    pub fn start(path: &Path, controlled: Arc<dyn Controlled>) -> Result<Server, ControlError> {
        let failed = |cause| ControlError::Socket { path: path.to_owned(), cause };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared { controlled, connections: AtomicUsize::new(0), ending: AtomicBool::new(false) });
        let listening = {
            let shared = Arc::clone(&shared);
            thread::spawn("zspool-control", move || listen(&listener, &shared)).map_err(ControlError::Thread)?
        };
        Ok(Server { path: path.to_owned(), shared, listening: Some(listening) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        // Wakes it; where that does not work it stays asleep, and a thread that sleeps cannot be waited for.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _ = fs::remove_file(&self.path);
        if let Some(listening) = self.listening.take().filter(|_| woken) {
            let _ = listening.join();
        }
    }
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    while !shared.ending.load(Ordering::Relaxed) {
        wait(listener);
        let Ok((client, _)) = listener.accept() else {
            // Out of descriptors, most likely: it may pass.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if shared.ending.load(Ordering::Relaxed) {
            break;
        }
        // It may stay for as long as the process.
        let client = Arc::new(UnixStream::from(aside::put(client.into())));
        let _ = client.set_write_timeout(Some(PATIENCE));
        let known = shared.connections.fetch_add(1, Ordering::Relaxed);
        let refused = if known < CONNECTIONS {
            let (own, shared) = (Arc::clone(&client), Arc::clone(shared));
            let serve = move || {
                let connected = Connected(shared);
                serve(&own, &connected.0);
            };
            thread::spawn("zspool-control", serve).err().map(|error| ControlError::Thread(error).to_string())
        } else {
            Some(format!("There are {CONNECTIONS} connections already: close one, and try again."))
        };
        if let Some(sentence) = refused {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            let _ = (&*client).write_all((Json::error(&sentence) + "\n").as_bytes());
        }
    }
}

/// A connection that counts, whatever comes of it.
struct Connected(Arc<Shared>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until somebody connects. Who waits in `accept` has the lowest number that is free as long as that takes, and nobody else can have it.
fn wait(listener: &UnixListener) {
    let mut fd = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which is ours.
    unsafe { libc::poll(&mut fd, 1, -1) };
}

/// Until the client goes, or does not read.
fn serve(client: &UnixStream, shared: &Shared) {
    let (mut reader, mut writer, mut line) = (BufReader::new(client), client, String::new());
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => (),
        }
        let mut answer = if line.len() as u64 == LINE && !line.ends_with('\n') {
            Json::error("The line is too long: a verb has a few words.")
        } else {
            let answer = Verb::parse(&line).and_then(|verb| shared.controlled.answer(verb));
            answer.unwrap_or_else(|sentence| Json::error(&sentence))
        };
        debug_assert!(!answer.contains('\n'), "an answer is a line");
        answer.push('\n');
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::control::Client;

    struct Echo;

    impl Controlled for Echo {
        fn answer(&self, verb: Verb) -> Result<String, String> {
            match verb {
                Verb::Reclaim(_) => Err("No.".to_owned()),
                verb => Ok(Json::build(|json| {
                    json.text("verb", &format!("{verb:?}"));
                })),
            }
        }
    }

    #[test]
    fn questions_are_answered_line_by_line_and_the_socket_goes_with_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sock");
        fs::write(&path, "left over").unwrap();
        let server = Server::start(&path, Arc::new(Echo)).unwrap();
        assert_eq!(server.path(), path);
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.ask("status").unwrap(), r#"{"verb":"Status"}"#);
        assert_eq!(client.ask("limit 5").unwrap(), r#"{"verb":"Limit(\"5\")"}"#);
        assert_eq!(client.ask("reclaim 5").unwrap(), r#"{"error":"No."}"#);
        assert!(client.ask("nonsense").unwrap().contains("nonsense"));
        assert!(client.ask(&"x".repeat(5000)).unwrap().contains("too long"));
        assert!(matches!(client.ask("reclaim 1M\nout"), Err(ControlError::Lines)));
        assert!(client.of(std::process::id()).is_ok());
        assert!(matches!(
            Client::connect(&path).unwrap().of(1),
            Err(ControlError::Stranger { pid, .. }) if pid == std::process::id()
        ));
        drop(server);
        assert!(!path.exists());
        assert!(matches!(Client::connect(&path), Err(ControlError::Nobody { .. })));
    }

    #[test]
    fn an_answer_without_an_end_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let talker = std::thread::spawn(move || {
            let mut client = listener.accept().unwrap().0;
            while std::io::Write::write_all(&mut client, &[b'x'; 4096]).is_ok() {}
        });
        assert!(matches!(Client::connect(&path).unwrap().ask("status"), Err(ControlError::NoAnswer { .. })));
        talker.join().unwrap();
    }

    #[test]
    fn a_silent_client_holds_up_nobody_and_there_is_an_end_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sock");
        let server = Server::start(&path, Arc::new(Echo)).unwrap();
        let mut silent: Vec<Client> = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(&path).unwrap();
            client.ask("out").unwrap(); // so that it is taken
            silent.push(client);
        }
        assert!(Client::connect(&path).unwrap().ask("out").unwrap().contains("16 connections"));
        silent.pop();
        let again = std::time::Instant::now();
        while Client::connect(&path).unwrap().ask("out").unwrap().contains("connections") {
            assert!(again.elapsed() < Duration::from_secs(30), "a connection that was closed still counts");
        }
        drop(server);
    }
}
