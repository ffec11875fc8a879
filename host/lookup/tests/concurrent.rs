//! Calls from many threads at a time, on a server of HTTP that this test runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use switchboard_core::record::{HeaderKind, Headers, Tenant, TenantHeader, TenantId, TenantSchema};
use switchboard_core::worker::{Lookups as _, Query};
use switchboard_lookup::{HttpLookups, Source, SourceOptions};

/// Longer than any test takes.
const BUDGET: Duration = Duration::from_mins(1);

/// Answers `/KEY` with the tenant and the key. A key that begins with `hanging` is not answered before `release`.
struct Directory {
    url: String,
    /// Each request, as `TENANT /KEY`.
    requests: Receiver<String>,
    released: Arc<(Mutex<bool>, Condvar)>,
}

impl Directory {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{{key}}", listener.local_addr().unwrap());
        let (request, requests) = mpsc::channel();
        let released = Arc::<(Mutex<bool>, Condvar)>::default();
        let released_there = Arc::clone(&released);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (request, released) = (request.clone(), Arc::clone(&released_there));
                thread::spawn(move || serve(connection.unwrap(), &request, &released));
            }
        });
        Self { url, requests, released }
    }

    fn release(&self) {
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }
}

/// Answers the requests of one connection, until the client closes it.
fn serve(connection: TcpStream, request: &Sender<String>, released: &(Mutex<bool>, Condvar)) {
    let mut answers = connection.try_clone().unwrap();
    let mut lines = BufReader::new(connection).lines();
    while let Some(Ok(first)) = lines.next() {
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let headers: Vec<_> = lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        let tenant = headers.iter().find_map(|line| line.strip_prefix("x-tenant: ")).unwrap();
        // Err: the test has seen enough.
        let _ = request.send(format!("{tenant} {path}"));
        if path.starts_with("/hanging") {
            let (is_released, changed) = released;
            drop(changed.wait_while(is_released.lock().unwrap(), |is_released| !*is_released).unwrap());
        }
        let body = format!("{tenant} {path}");
        write!(answers, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

fn source(name: &str, directory: &Directory) -> Source {
    let timeout_ms = BUDGET.as_millis().try_into().unwrap();
    let options = SourceOptions { timeout_ms, ..SourceOptions::new(directory.url.clone()) };
    Source::new(name, options, |_| None).unwrap().unwrap()
}

fn lookups(sources: Vec<Source>) -> HttpLookups {
    let header = TenantHeader { name: "x-tenant".into(), kind: HeaderKind::Text };
    HttpLookups::new(sources, 1 << 20, &TenantSchema::new(vec![header]))
}

fn tenant(id: &str) -> Tenant {
    Tenant { id: TenantId::new(id), headers: Headers::new(), texts: vec![id.to_owned()] }
}

fn query(source: &str, key: &str) -> Query {
    Query { source: source.into(), key: key.into() }
}

fn fetch(lookups: &HttpLookups, tenant_id: &str, source: &str, key: &str) -> String {
    let answer = lookups.fetch(&tenant(tenant_id), &query(source, key), 0, BUDGET);
    String::from_utf8(answer.unwrap().unwrap()).unwrap()
}

#[test]
fn each_of_many_threads_gets_the_answers_of_its_tenant() {
    let directory = Directory::start();
    let lookups = &lookups(vec![source("names", &directory)]);
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let id = format!("t{number}");
                for key in ["1", "2", "3", "4", "5"] {
                    let expected = format!("{id} /{key}");
                    assert_eq!(lookups.known(&tenant(&id), &query("names", key)), None);
                    assert_eq!(fetch(lookups, &id, "names", key), expected);
                    assert_eq!(lookups.known(&tenant(&id), &query("names", key)), Some(Some(expected.into_bytes())));
                }
            });
        }
    });
    assert_eq!(directory.requests.try_iter().count(), 8 * 5);
}

#[test]
fn a_source_that_hangs_delays_no_other_call() {
    let directory = Directory::start();
    let lookups = &lookups(vec![source("names", &directory), source("places", &directory)]);
    // More than the connections that a source keeps.
    let hanging: Vec<_> = (0..40).map(|number| format!("hanging{number}")).collect();
    thread::scope(|scope| {
        let calls: Vec<_> =
            hanging.iter().map(|id| scope.spawn(move || fetch(lookups, id, "names", "hanging"))).collect();
        for _ in &hanging {
            directory.requests.recv_timeout(BUDGET).unwrap();
        }
        // All of them wait for the server now.
        for source in ["names", "places"] {
            assert_eq!(lookups.known(&tenant("t"), &query(source, "hanging")), None);
            assert_eq!(lookups.known(&tenant("t"), &query(source, "1")), None);
            assert_eq!(fetch(lookups, "t", source, "1"), "t /1");
            assert!(lookups.known(&tenant("t"), &query(source, "1")).is_some());
        }
        assert!(calls.iter().all(|call| !call.is_finished()));
        directory.release();
        for (id, call) in hanging.iter().zip(calls) {
            assert_eq!(call.join().unwrap(), format!("{id} /hanging"));
        }
    });
}
