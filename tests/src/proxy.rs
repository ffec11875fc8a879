//! A network with faults between clients and brokers: a TCP proxy with a port for each broker. On demand its
//! connections are slow, cut, half closed, silent or refused. It can also hold back a single request and deliver it
//! later.
//!
//! To a broker it forwards whole requests (each begins with its length). To a client it forwards bytes as they arrive.

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
const BROKER_ANSWER_TIMEOUT: Duration = NO_PROGRESS_LIMIT;
/// The maximum length of a request or response. Kafka's are shorter.
const MAX_FRAME_BYTES: u32 = 64 << 20;

/// The API key of a request, as Kafka's protocol defines it.
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

/// The condition of the link to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Healthy,
    /// Each transfer takes this much longer, in both directions.
    Slow(Duration),
    /// Bytes in this direction are lost, and the connection stays open. A connection that lost bytes never forwards
    /// bytes in this direction again.
    Silent(Direction),
    /// New connections are reset at once.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToBroker,
    ToClient,
}

/// A command for all open connections of a link.
#[derive(Debug, Clone, Copy)]
enum LinkCommand {
    /// Both ends are reset (RST), and bytes in transit are lost.
    Cut,
    /// One direction ends (FIN), and the other continues.
    HalfClose(Direction),
}

/// The proxies, one for each broker. Dropping it closes all ports and connections.
#[derive(Debug)]
pub struct Network {
    links: Vec<Arc<BrokerLink>>,
    ports: Vec<u16>,
    interceptor: Arc<Mutex<Option<Interceptor>>>,
    _runtime: Runtime,
}

/// The link to one broker.
#[derive(Debug)]
struct BrokerLink {
    target: u16,
    state: watch::Sender<LinkState>,
    link_commands: broadcast::Sender<LinkCommand>,
    interceptor: Arc<Mutex<Option<Interceptor>>>,
}

/// Waits for the next request of an API, to hold it back.
#[derive(Debug)]
struct Interceptor {
    api: Api,
    caught: channel::Sender<i16>,
    held_commands: mpsc::UnboundedReceiver<HeldCommand>,
    answer: channel::Sender<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum HeldCommand {
    Cut,
    Deliver,
}

/// A request that the proxy holds back, or will hold back, and all later requests of its connection. When this is
/// dropped, they never arrive.
#[derive(Debug)]
pub struct HeldRequest {
    caught: channel::Receiver<i16>,
    held_commands: mpsc::UnboundedSender<HeldCommand>,
    answer: channel::Receiver<Vec<u8>>,
}

impl HeldRequest {
    /// Waits until a request is held, and returns the version that it has of its API.
    pub fn wait(&self, within: Duration) -> Result<i16> {
        self.caught.recv_timeout(within).context("no such request came")
    }

    /// Resets the connection to the client, and keeps the request.
    pub fn cut(&self) {
        // Err: the connection is gone.
        let _ = self.held_commands.send(HeldCommand::Cut);
    }

    /// Delivers the request of a connection that was [cut](Self::cut), and returns the broker's answer from the
    /// correlation id on.
    pub fn deliver(self) -> Result<Vec<u8>> {
        let _ = self.held_commands.send(HeldCommand::Deliver);
        self.answer
            .recv_timeout(2 * BROKER_ANSWER_TIMEOUT)
            .context("the request that was held back could not be delivered")
    }
}

impl Network {
    /// Opens a port for each broker's port, all on 127.0.0.1. The links work without faults.
    pub fn start(brokers: &[u16]) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let interceptor = Arc::new(Mutex::new(None));
        let mut links = Vec::new();
        let mut ports = Vec::new();
        for target in brokers {
            let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
            ports.push(listener.local_addr()?.port());
            let link = Arc::new(BrokerLink {
                target: *target,
                state: watch::channel(LinkState::Healthy).0,
                link_commands: broadcast::channel(16).0,
                interceptor: Arc::clone(&interceptor),
            });
            links.push(Arc::clone(&link));
            runtime.spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(Arc::clone(&link), client));
                }
            });
        }
        Ok(Self { links, ports, interceptor, _runtime: runtime })
    }

    /// The ports, in the order of the brokers.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Changes the condition of the link to a broker. Brokers count from 0.
    pub fn set(&self, broker: usize, state: LinkState) {
        self.links[broker].state.send_replace(state);
    }

    /// Resets all connections to a broker. Bytes in transit are lost.
    pub fn cut(&self, broker: usize) {
        // Err: there are no connections.
        let _ = self.links[broker].link_commands.send(LinkCommand::Cut);
    }

    /// Ends one direction of all connections to a broker.
    pub fn half_close(&self, broker: usize, direction: Direction) {
        let _ = self.links[broker].link_commands.send(LinkCommand::HalfClose(direction));
    }

    /// Holds back the next request of an API, to any broker.
    pub fn hold(&self, api: Api) -> HeldRequest {
        let (caught, when_caught) = channel::channel();
        let (held_commands, when_commanded) = mpsc::unbounded_channel();
        let (answer, when_answered) = channel::channel();
        *lock(&self.interceptor) = Some(Interceptor { api, caught, held_commands: when_commanded, answer });
        HeldRequest { caught: when_caught, held_commands, answer: when_answered }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection ends before both directions are done.
enum End {
    Broken,
    HeldRequest(Vec<u8>, Interceptor),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn serve(link: Arc<BrokerLink>, mut client: TcpStream) {
    let link_commands = link.link_commands.subscribe();
    let refused = *link.state.borrow() == LinkState::Refused;
    let server = if refused { None } else { TcpStream::connect((Ipv4Addr::LOCALHOST, link.target)).await.ok() };
    let Some(mut server) = server else {
        return reset(&client);
    };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(Direction::ToBroker, &link, link_commands.resubscribe(), from_client, to_server);
        let down = pump(Direction::ToClient, &link, link_commands, from_server, to_client);
        tokio::try_join!(up, down).err()
    };
    match end {
        None => {}
        Some(End::Broken) => {
            reset(&client);
            reset(&server);
        }
        Some(End::HeldRequest(request, mut interceptor)) => {
            reset(&client);
            drop(client);
            if interceptor.held_commands.recv().await == Some(HeldCommand::Deliver)
                && let Ok(Ok(answer)) = timeout(BROKER_ANSWER_TIMEOUT, ask(&mut server, &request)).await
            {
                let _ = interceptor.answer.send(answer);
            }
        }
    }
}

/// Makes dropping the stream reset it, rather than close it.
fn reset(stream: &TcpStream) {
    // Err: the connection has ended already.
    let _ = stream.set_zero_linger();
}

async fn pump(
    direction: Direction,
    link: &BrokerLink,
    mut link_commands: broadcast::Receiver<LinkCommand>,
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), End> {
    let over = async {
        loop {
            match link_commands.recv().await {
                Ok(LinkCommand::HalfClose(which)) if which != direction => {}
                Ok(command) => return command,
                Err(_) => return LinkCommand::Cut,
            }
        }
    };
    tokio::select! {
        end = copy(direction, link, from, &mut to) => end?,
        command = over => if matches!(command, LinkCommand::Cut) {
            return Err(End::Broken);
        },
    }
    Ok(to.shutdown().await?)
}

/// Copies until the end of the stream.
async fn copy(
    direction: Direction,
    link: &BrokerLink,
    mut from: ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
) -> Result<(), End> {
    let mut lost = false;
    loop {
        let bytes = match direction {
            Direction::ToBroker => read_frame(&mut from).await?,
            Direction::ToClient => read_some(&mut from).await?,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let state = *link.state.borrow();
        if let LinkState::Slow(time) = state {
            sleep(time).await;
        }
        lost |= state == LinkState::Silent(direction);
        if lost {
            continue;
        }
        if direction == Direction::ToBroker
            && let Some((version, mut interceptor)) = caught(&bytes, &link.interceptor)
        {
            // Err: nobody waits for the request any more.
            let _ = interceptor.caught.send(version);
            match interceptor.held_commands.recv().await {
                Some(HeldCommand::Cut) => return Err(End::HeldRequest(bytes, interceptor)),
                Some(HeldCommand::Deliver) => {}
                None => return Err(End::Broken),
            }
        }
        to.write_all(&bytes).await?;
    }
}

/// The version of this request and its interceptor, if one waits for the request's API.
fn caught(request: &[u8], interceptor: &Mutex<Option<Interceptor>>) -> Option<(i16, Interceptor)> {
    let number = |at| Some(i16::from_be_bytes([*request.get(at)?, *request.get(at + 1)?]));
    let api = number(4)?;
    let version = number(6)?;
    Some((version, lock(interceptor).take_if(|interceptor| interceptor.api as i16 == api)?))
}

/// A request or response that begins with its length. `None` at the end of the stream.
async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Ok(length) if length <= MAX_FRAME_BYTES => length,
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

/// Delivers a request and returns its answer without the length. Skips the answers to earlier requests.
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
