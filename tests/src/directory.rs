//! A directory of characters over HTTP, as a lookup source. `GET /characters/{key}` answers with the document that a
//! test has stored for the tenant, or with 404. It misbehaves on demand. The request header `TENANT_ID` names the
//! tenant.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::runtime::{Builder, Runtime};

/// A fault of a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// This status, without a body.
    Status(StatusCode),
    /// The answer, this much later.
    Delay(Duration),
    /// No answer: the connection is closed.
    Close,
    /// Status 200 with a body that is cut off in the middle of its JSON.
    Garbage,
    /// Status 200 with this document.
    Document(&'static str),
}

/// A running directory. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Directory {
    address: SocketAddr,
    entries: Entries,
    _runtime: Runtime,
}

/// By tenant id in lower case and key.
type Entries = Arc<Mutex<HashMap<(String, String), Entry>>>;

#[derive(Debug, Default)]
struct Entry {
    answer: Option<String>,
    faults: VecDeque<(Fault, usize)>,
    requests: Vec<HeaderMap>,
}

impl Directory {
    /// Starts an empty directory on a free port.
    pub fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let entries = Entries::default();
        let router = Router::new().route("/characters/{key}", get(answer)).with_state(Arc::clone(&entries));
        runtime.spawn(axum::serve(listener, router).into_future());
        Ok(Self { address, entries, _runtime: runtime })
    }

    /// The base URL, with a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From now on, the answer to `key` of the tenant with the id `tenant` is this JSON document.
    pub fn put(&self, tenant: &str, key: &str, answer: &serde_json::Value) {
        self.entry(tenant, key, |entry| entry.answer = Some(answer.to_string()));
    }

    /// The next `times` requests for `key` of `tenant` meet `fault`. The faults of further calls come after these.
    pub fn fail(&self, tenant: &str, key: &str, fault: Fault, times: usize) {
        self.entry(tenant, key, |entry| entry.faults.push_back((fault, times)));
    }

    /// The headers of each request for `key` of `tenant` so far, including requests that met a fault.
    pub fn requests(&self, tenant: &str, key: &str) -> Vec<HeaderMap> {
        self.entry(tenant, key, |entry| entry.requests.clone())
    }

    fn entry<T>(&self, tenant: &str, key: &str, act: impl FnOnce(&mut Entry) -> T) -> T {
        act(lock(&self.entries).entry((tenant.to_lowercase(), key.to_owned())).or_default())
    }
}

fn lock(entries: &Entries) -> MutexGuard<'_, HashMap<(String, String), Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(entries): State<Entries>, Path(key): Path<String>, headers: HeaderMap) -> Response {
    let tenant =
        headers.get("TENANT_ID").map_or_else(String::new, |id| String::from_utf8_lossy(id.as_bytes()).to_lowercase());
    let (answer, fault) = {
        let mut entries = lock(&entries);
        let entry = entries.entry((tenant, key)).or_default();
        entry.requests.push(headers);
        (entry.answer.clone(), entry.next_fault())
    };
    match fault {
        None => {}
        Some(Fault::Status(status)) => return status.into_response(),
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        // This ends the task of the connection. Unlike `panic!`, it prints nothing to standard error.
        Some(Fault::Close) => std::panic::resume_unwind(Box::new("a connection closed on purpose")),
        Some(Fault::Garbage) => return json(r#"{"data":{"type":"characters","id":"#.to_owned()),
        Some(Fault::Document(document)) => return json(document.to_owned()),
    }
    answer.map_or_else(|| StatusCode::NOT_FOUND.into_response(), json)
}

fn json(document: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

impl Entry {
    fn next_fault(&mut self) -> Option<Fault> {
        while let Some((fault, left)) = self.faults.front_mut() {
            if *left > 0 {
                *left -= 1;
                return Some(*fault);
            }
            self.faults.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    /// Status and body, or "closed".
    fn request(directory: &Directory, tenant: &str, key: &str) -> Result<String> {
        let mut stream = TcpStream::connect(directory.address)?;
        let headers = format!("Host: x\r\nConnection: close\r\nTENANT_ID: {tenant}\r\nREGION: GMS\r\n");
        write!(stream, "GET /characters/{key} HTTP/1.1\r\n{headers}\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let Some((head, body)) = response.split_once("\r\n\r\n") else { return Ok("closed".to_owned()) };
        let status = head.split(' ').nth(1).unwrap_or_default();
        Ok(format!("{status} {body}"))
    }

    #[test]
    fn answers_belong_to_a_tenant() -> Result<()> {
        let directory = Directory::start()?;
        directory.put("Tenant-1", "7", &json!({"name": "Ann"}));
        assert_eq!(request(&directory, "tenant-1", "7")?, r#"200 {"name":"Ann"}"#);
        assert_eq!(request(&directory, "tenant-1", "8")?, "404 ");
        assert_eq!(request(&directory, "tenant-2", "7")?, "404 ");
        Ok(())
    }

    #[test]
    fn requests_are_kept_with_their_headers() -> Result<()> {
        let directory = Directory::start()?;
        assert_eq!(directory.requests("t", "7").len(), 0);
        request(&directory, "t", "7")?;
        request(&directory, "t", "7")?;
        let requests = directory.requests("t", "7");
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0]["REGION"], "GMS");
        Ok(())
    }

    #[test]
    fn faults_come_in_order_and_end() -> Result<()> {
        let directory = Directory::start()?;
        directory.put("t", "7", &json!(1));
        directory.fail("t", "7", Fault::Status(StatusCode::SERVICE_UNAVAILABLE), 2);
        directory.fail("t", "7", Fault::Close, 1);
        directory.fail("t", "7", Fault::Garbage, 1);
        assert_eq!(request(&directory, "t", "7")?, "503 ");
        assert_eq!(request(&directory, "t", "7")?, "503 ");
        assert_eq!(request(&directory, "t", "7")?, "closed");
        assert_eq!(request(&directory, "t", "7")?, r#"200 {"data":{"type":"characters","id":"#);
        assert_eq!(request(&directory, "t", "7")?, "200 1");
        assert_eq!(directory.requests("t", "7").len(), 5);
        Ok(())
    }

    #[test]
    fn a_delayed_answer_delays_no_other() -> Result<()> {
        let directory = Directory::start()?;
        directory.put("t", "7", &json!(1));
        directory.put("t", "8", &json!(2));
        directory.fail("t", "7", Fault::Delay(Duration::from_millis(300)), 1);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| request(&directory, "t", "7"));
            assert_eq!(request(&directory, "t", "8")?, "200 2");
            assert_eq!(slow.join().expect("no panic")?, "200 1");
            assert!(start.elapsed() >= Duration::from_millis(300));
            Ok(())
        })
    }

    #[test]
    fn dropping_a_directory_closes_its_connections() -> Result<()> {
        let directory = Directory::start()?;
        let address = directory.address;
        let mut open = TcpStream::connect(address)?;
        request(&directory, "t", "7")?;
        drop(directory);
        assert_eq!(open.read(&mut [0; 1])?, 0);
        TcpStream::connect(address).unwrap_err();
        Ok(())
    }
}
