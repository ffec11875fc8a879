//! A network between clients and brokers that does what networks do: a TCP proxy with a port for each broker, whose
//! connections are slow, cut, half closed, silent or refused when told so, and that can hold a single request back and
//! deliver it later.
//!
//! Towards a broker it works by whole requests (each has its length in front), towards a client by whatever bytes come.

use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::progress::NO_PROGRESS_LIMIT;

/// How long a broker may take to answer a request that was delivered late.
const ANSWER: Duration = NO_PROGRESS_LIMIT;
/// Longer than any request or response is.
const LONGEST: u32 = 64 << 20;

/// The number of a request's kind, as Kafka's protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Api {
    Produce = 0,
    JoinGroup = 11,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
}

/// What becomes of connections to a broker and of what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Everything takes so much longer, each way.
    Slow(Duration),
    /// What goes this way is lost without a word. A connection that lost something stays silent that way for ever.
    Silent(Direction),
    /// New connections are reset at once.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToBroker,
    ToClient,
}

/// What happens to the connections that there are.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Both ends are reset (RST): what is under way is lost.
    Cut,
    /// One direction ends (FIN); the other goes on.
    HalfClose(Direction),
}

/// Proxies, one a broker. Dropping it closes all ports and connections.
#[derive(Debug)]
pub struct Network {
    gates: Vec<Arc<Gate>>,
    ports: Vec<u16>,
    snare: Arc<Mutex<Option<Snare>>>,
    _runtime: Runtime,
}

/// The way to one broker.
#[derive(Debug)]
struct Gate {
    target: u16,
    weather: watch::Sender<Weather>,
    orders: broadcast::Sender<Order>,
    snare: Arc<Mutex<Option<Snare>>>,
}

/// Waits for a request.
#[derive(Debug)]
struct Snare {
    api: Api,
    caught: channel::Sender<i16>,
    wishes: mpsc::UnboundedReceiver<Wish>,
    answer: channel::Sender<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Cut,
    Deliver,
}

/// A request that is to be held back, or is held already, and all that follows on its connection. Dropped, it never
/// arrives.
#[derive(Debug)]
pub struct Held {
    caught: channel::Receiver<i16>,
    wishes: mpsc::UnboundedSender<Wish>,
    answer: channel::Receiver<Vec<u8>>,
}

impl Held {
    /// Waits until a request is held, and returns the version that it has of its API.
    pub fn wait(&self, within: Duration) -> Result<i16> {
        self.caught.recv_timeout(within).context("no such request came")
    }

    /// Resets the connection for the client; the request stays.
    pub fn cut(&self) {
        // Err: the connection is gone.
        let _ = self.wishes.send(Wish::Cut);
    }

    /// Delivers the request of a connection that was [cut](Self::cut), and returns the broker's answer from the
    /// correlation id on.
    pub fn deliver(self) -> Result<Vec<u8>> {
        let _ = self.wishes.send(Wish::Deliver);
        self.answer.recv_timeout(2 * ANSWER).context("the request that was held back could not be delivered")
    }
}

impl Network {
    /// Opens a port for each broker's (all on 127.0.0.1); fair weather.
    pub fn start(brokers: &[u16]) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let snare = Arc::new(Mutex::new(None));
        let (mut gates, mut ports) = (Vec::new(), Vec::new());
        for target in brokers {
            let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
            ports.push(listener.local_addr()?.port());
            let gate = Arc::new(Gate {
                target: *target,
                weather: watch::channel(Weather::Fair).0,
                orders: broadcast::channel(16).0,
                snare: Arc::clone(&snare),
            });
            gates.push(Arc::clone(&gate));
            runtime.spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(Arc::clone(&gate), client));
                }
            });
        }
        Ok(Self { gates, ports, snare, _runtime: runtime })
    }

    /// The ports, in the order of the brokers'.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Changes the weather on the way to a broker, counted from 0.
    pub fn set(&self, broker: usize, weather: Weather) {
        self.gates[broker].weather.send_replace(weather);
    }

    /// Resets all connections to a broker; what is under way is lost.
    pub fn cut(&self, broker: usize) {
        // Err: there are no connections.
        let _ = self.gates[broker].orders.send(Order::Cut);
    }

    /// Ends one direction of all connections to a broker.
    pub fn half_close(&self, broker: usize, direction: Direction) {
        let _ = self.gates[broker].orders.send(Order::HalfClose(direction));
    }

    /// Holds back the next request of a kind, to whichever broker.
    pub fn hold(&self, api: Api) -> Held {
        let (caught, when_caught) = channel::channel();
        let (wishes, wished) = mpsc::unbounded_channel();
        let (answer, when_answered) = channel::channel();
        *lock(&self.snare) = Some(Snare { api, caught, wishes: wished, answer });
        Held { caught: when_caught, wishes, answer: when_answered }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection ends before both directions are done.
enum End {
    Broken,
    Held(Vec<u8>, Snare),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn serve(gate: Arc<Gate>, mut client: TcpStream) {
    let orders = gate.orders.subscribe();
    let refused = *gate.weather.borrow() == Weather::Refused;
    let server = if refused { None } else { TcpStream::connect((Ipv4Addr::LOCALHOST, gate.target)).await.ok() };
    let Some(mut server) = server else {
        return reset(&client);
    };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(Direction::ToBroker, &gate, orders.resubscribe(), from_client, to_server);
        let down = pump(Direction::ToClient, &gate, orders, from_server, to_client);
        tokio::try_join!(up, down).err()
    };
    match end {
        None => {}
        Some(End::Broken) => {
            reset(&client);
            reset(&server);
        }
        Some(End::Held(request, mut snare)) => {
            reset(&client);
            drop(client);
            if snare.wishes.recv().await == Some(Wish::Deliver)
                && let Ok(Ok(answer)) = timeout(ANSWER, ask(&mut server, &request)).await
            {
                let _ = snare.answer.send(answer);
            }
        }
    }
}

/// Lets the stream be reset, rather than closed, when it is dropped.
fn reset(stream: &TcpStream) {
    // Err: it is over already.
    let _ = stream.set_zero_linger();
}

async fn pump(
    direction: Direction,
    gate: &Gate,
    mut orders: broadcast::Receiver<Order>,
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), End> {
    let over = async {
        loop {
            match orders.recv().await {
                Ok(Order::HalfClose(which)) if which != direction => {}
                Ok(order) => return order,
                Err(_) => return Order::Cut,
            }
        }
    };
    tokio::select! {
        end = copy(direction, gate, from, &mut to) => end?,
        order = over => if matches!(order, Order::Cut) {
            return Err(End::Broken);
        },
    }
    Ok(to.shutdown().await?)
}

/// Copies until the end of the stream.
async fn copy(direction: Direction, gate: &Gate, mut from: ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<(), End> {
    let mut lost = false;
    loop {
        let bytes = match direction {
            Direction::ToBroker => read_frame(&mut from).await?,
            Direction::ToClient => read_some(&mut from).await?,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let weather = *gate.weather.borrow();
        if let Weather::Slow(time) = weather {
            sleep(time).await;
        }
        lost |= weather == Weather::Silent(direction);
        if lost {
            continue;
        }
        if direction == Direction::ToBroker
            && let Some((version, mut snare)) = caught(&bytes, &gate.snare)
        {
            // Err: nobody waits for it any more.
            let _ = snare.caught.send(version);
            match snare.wishes.recv().await {
                Some(Wish::Cut) => return Err(End::Held(bytes, snare)),
                Some(Wish::Deliver) => {}
                None => return Err(End::Broken),
            }
        }
        to.write_all(&bytes).await?;
    }
}

/// The version of this request and the snare, when that waits for it.
fn caught(request: &[u8], snare: &Mutex<Option<Snare>>) -> Option<(i16, Snare)> {
    let number = |at| Some(i16::from_be_bytes([*request.get(at)?, *request.get(at + 1)?]));
    let (api, version) = (number(4)?, number(6)?);
    Some((version, lock(snare).take_if(|snare| snare.api as i16 == api)?))
}

/// A request or response with the length in front of it; none at the end of the stream.
async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Ok(length) if length <= LONGEST => length,
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(Some(frame))
}

async fn read_some(from: &mut ReadHalf<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(64 << 10);
    let read = from.read_buf(&mut bytes).await?;
    Ok((read > 0).then_some(bytes))
}

/// Delivers a request and returns its answer, without the length. Answers to earlier requests come before it.
async fn ask(server: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    server.write_all(request).await?;
    loop {
        let answer = read_frame(server).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // Key and version of the API, two bytes each, then the correlation id, which begins the answer.
        if answer.get(4..8) == request.get(8..12) {
            return Ok(answer[4..].to_vec());
        }
    }
}
