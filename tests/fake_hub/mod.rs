//! A server that speaks as much of the hub's HTTP as a download needs.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The commit that the repository is at, at first.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub struct FakeHub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
}

struct State {
    repository: String,
    commit: String,
    files: Vec<(String, Vec<u8>)>,
    fault: Fault,
    token: Option<String>,
    requests: Vec<String>,
    bytes: usize,
    stopped: bool,
}

#[derive(Clone, PartialEq)]
enum Fault {
    None,
    /// Listed, but not found.
    Lost(String),
    /// The connection breaks after so many bytes of an answer.
    Cut(String, usize),
    /// An answer of so many bytes, as if that were all.
    Shortened(String, usize),
}

impl FakeHub {
    pub fn start(repository: &str, files: Vec<(String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            repository: repository.into(),
            commit: COMMIT.into(),
            files,
            fault: Fault::None,
            token: None,
            requests: Vec::new(),
            bytes: 0,
            stopped: false,
        }));
        let shared = Arc::clone(&state);
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                if state.stopped {
                    break;
                }
                // A client that goes away in the middle is no concern of the server.
                let _ = state.answer(stream);
            }
        });
        let server = Some(server);
        FakeHub {
            address,
            state,
            server,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    pub fn forget_bytes(&self) {
        self.state().bytes = 0;
    }

    pub fn lose(&self, name: &str) {
        self.state().fault = Fault::Lost(name.into());
    }

    pub fn cut(&self, name: &str, bytes: usize) {
        self.state().fault = Fault::Cut(name.into(), bytes);
    }

    pub fn shorten(&self, name: &str, bytes: usize) {
        self.state().fault = Fault::Shortened(name.into(), bytes);
    }

    pub fn heal(&self) {
        self.state().fault = Fault::None;
    }

    pub fn commit(&self, commit: &str) {
        self.state().commit = commit.into();
    }

    pub fn demand_token(&self, token: &str) {
        self.state().token = Some(token.into());
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.state().stopped = true;
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl State {
    /// Reads one request, answers it and closes the connection.
    fn answer(&mut self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut range, mut token) = (None, None);
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            match name.to_lowercase().as_str() {
                "range" => range = Some(value.trim().to_owned()),
                "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        self.requests.push(path.clone());
        if self.token.is_some() && self.token != token {
            return status(&mut stream, "401 Unauthorized");
        }
        if path == format!("/api/models/{}/revision/main", self.repository) {
            let siblings = self
                .files
                .iter()
                .map(|(name, _)| serde_json::json!({"rfilename": name}));
            let siblings: Vec<_> = siblings.collect();
            let info = serde_json::json!({"sha": self.commit, "siblings": siblings}).to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{info}",
                info.len()
            )?;
            return stream.shutdown(Shutdown::Write);
        }
        let prefix = format!("/{}/resolve/main/", self.repository);
        let name = path.strip_prefix(&prefix).unwrap_or_default().to_owned();
        let found = self.files.iter().find(|(file, _)| *file == name);
        match found.map(|(_, content)| content.clone()) {
            Some(content) if self.fault != Fault::Lost(name.clone()) => {
                self.send(&mut stream, &name, &content, range.as_deref())
            }
            _ => status(&mut stream, "404 Not Found"),
        }
    }

    /// Sends a range of a file, as the hub does when one is asked for.
    fn send(
        &mut self,
        stream: &mut TcpStream,
        name: &str,
        content: &[u8],
        range: Option<&str>,
    ) -> std::io::Result<()> {
        let range = range.and_then(|range| range.strip_prefix("bytes="));
        let (start, end) = range
            .and_then(|range| range.split_once('-'))
            .unwrap_or(("0", ""));
        let start = start.parse::<usize>().unwrap().min(content.len());
        let end = end
            .parse::<usize>()
            .map_or(content.len(), |end| content.len().min(end + 1));
        let mut body = &content[start..end.max(start)];
        let mut announced = body.len();
        match &self.fault {
            Fault::Cut(file, most) if file == name => body = &body[..body.len().min(*most)],
            Fault::Shortened(file, most) if file == name => {
                body = &body[..body.len().min(*most)];
                announced = body.len();
            }
            _ => {}
        }
        // The blob's name: the same content has the same.
        let etag = content.iter().fold(0_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {announced}\r\n\
             Content-Range: bytes {start}-{}/{}\r\nETag: \"{etag:016x}{}\"\r\n\
             X-Repo-Commit: {}\r\nConnection: close\r\n\r\n",
            end.saturating_sub(1),
            content.len(),
            content.len(),
            self.commit
        )?;
        stream.write_all(body)?;
        self.bytes += body.len();
        stream.shutdown(Shutdown::Write)
    }
}

fn status(stream: &mut TcpStream, status: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    stream.shutdown(Shutdown::Write)
}
