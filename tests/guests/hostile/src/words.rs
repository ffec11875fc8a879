//! The actions of the plugin, by the word of its message.

use std::collections::HashSet;
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use switchboard_sdk::{Context, Header, Level, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

use crate::raw;

/// Memory that the plugin never frees.
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// State in guest memory, which no plugin should have.
static CALLS: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Hostile;

impl Plugin for Hostile {
    fn manifest() -> Manifest {
        Manifest {
            name: "hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            consumes: vec!["IN".into()],
            produces: vec!["OUT".into()],
            lookups: vec!["names".into()],
            state_version: 1,
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default());
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match word {
            "invalid" => return Err(Rejection::Invalid(rest.into())),
            "unusable" => return Err(Rejection::UnusableAnswer(rest.into())),
            "outputs" => {
                let mut arguments = rest.split(' ').filter_map(|argument| argument.parse().ok());
                let count = arguments.next().unwrap_or(0);
                let size = arguments.next().unwrap_or(0);
                return Ok(vec![output(vec![b'x'; size]); count]);
            }
            "to" => return Ok(vec![Outbound { topic: rest.into(), ..output(vec![]) }]),
            "header" => {
                let header = Header { name: rest.into(), value: Some(vec![]) };
                return Ok(vec![Outbound { headers: vec![header], ..output(vec![]) }]);
            }
            _ => {}
        }
        let answer = well_behaved(ctx, message, word, rest)
            .or_else(|| about_the_world(ctx, word, rest))
            .or_else(|| badly_behaved(ctx, calls, word, rest));
        match answer {
            Some(answer) => Ok(vec![output(answer.into_bytes())]),
            None => Err(Rejection::Invalid(format!("no such word: {word}"))),
        }
    }
}

/// The first argument as a number; 0 where it is none.
fn number(rest: &str) -> usize {
    rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The answer to a word that any plugin may act on; `None`: it is another word.
fn well_behaved(ctx: &mut Context<'_>, message: &Message, word: &str, rest: &str) -> Option<String> {
    Some(match word {
        "echo" => rest.into(),
        "message" => format!("{message:?}"),
        "count" => {
            let count: u64 = ctx.get_json("count").unwrap_or(0) + 1;
            ctx.set_json("count", &count);
            format!("{count} {rest}").trim_end().into()
        }
        // As many thousand turns of a loop as the first argument says: slow, but within all limits. Answers with
        // the second argument.
        "burn" => {
            for turn in 0..number(rest) * 1000 {
                black_box(turn);
            }
            rest.split(' ').nth(1).unwrap_or_default().into()
        }
        "state" => {
            for pair in rest.split(' ') {
                match pair.split_once('=') {
                    Some((key, value)) => ctx.set(key, value.into()),
                    None => ctx.delete(pair),
                }
            }
            String::new()
        }
        "list" => format!("{:?}", ctx.list(rest, None, 1000).iter().map(|entry| &entry.key).collect::<Vec<_>>()),
        "lookup" => {
            let (source, key) = rest.split_once(' ').unwrap_or((rest, ""));
            format!("{:?}", ctx.lookup(source, key).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => return None,
    })
}

/// The answer to a word that asks what the sandbox shows of the world; `None`: it is another word.
fn about_the_world(ctx: &mut Context<'_>, word: &str, rest: &str) -> Option<String> {
    Some(match word {
        "random" => {
            let mut bytes = [0; 16];
            raw::random(&mut bytes);
            format!("{bytes:?}")
        }
        "hashmap" => {
            let set: HashSet<usize> = (0..100).collect();
            format!("{:?}", set.iter().collect::<Vec<_>>())
        }
        "nan" => format!("{:x}", raw::nan()),
        "clock" => {
            let wall = SystemTime::now();
            let monotonic = Instant::now();
            for turn in 0..1_000_000 {
                black_box(turn);
            }
            let passed = (wall.elapsed().ok(), monotonic.elapsed());
            format!("{:?} {passed:?}", wall.duration_since(UNIX_EPOCH).ok())
        }
        "print" => {
            println!("{rest}");
            String::new()
        }
        "print-unfinished" => {
            print!("{rest}");
            std::io::stdout().flush().map_or_else(|error| error.to_string(), |()| String::new())
        }
        "complain" => {
            eprintln!("{rest}");
            String::new()
        }
        "log" => {
            for line in 0..number(rest) {
                ctx.log(Level::Info, &format!("line {line}"));
            }
            String::new()
        }
        "world" => {
            let mut input = String::new();
            let read = std::io::stdin().read_to_string(&mut input);
            let env: Vec<_> = std::env::vars().collect();
            let file = std::fs::read("/etc/passwd").map_err(|error| error.kind());
            format!("{read:?} {env:?} {:?} {:?}", std::env::args().collect::<Vec<_>>(), file.is_err())
        }
        _ => return None,
    })
}

/// The answer to a word that no plugin should act on; `None`: there is no such word.
fn badly_behaved(ctx: &mut Context<'_>, calls: u64, word: &str, rest: &str) -> Option<String> {
    Some(match word {
        "calls" => calls.to_string(),
        "loop" => loop {
            black_box(());
        },
        "recurse" => recurse(number(rest)).to_string(),
        "grow" => black_box(vec![1_u8; number(rest) << 20]).len().to_string(),
        "leak" => {
            LEAKED.lock().unwrap().push(vec![1; number(rest) << 20]);
            String::new()
        }
        "trap" => raw::trap(),
        "out-of-bounds" => raw::read_out_of_bounds().to_string(),
        "panic" => panic!("{rest}"),
        "exit" => std::process::exit(i32::try_from(number(rest)).unwrap_or(0)),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(number(rest) as u64));
            String::new()
        }
        "connect" => format!("{:?}", std::net::TcpStream::connect("127.0.0.1:9").map_err(|error| error.kind())),
        "handles" => {
            (0..number(rest)).for_each(|_| raw::leak_handle());
            String::new()
        }
        "entry" => {
            let mut arguments = rest.split(' ').filter_map(|argument| argument.parse().ok());
            let key = arguments.next().unwrap_or(0);
            let value = arguments.next().unwrap_or(0);
            ctx.set(&"k".repeat(key), vec![0; value]);
            String::new()
        }
        "fill" => {
            let mut entries = 0_usize;
            loop {
                ctx.set(&entries.to_string(), vec![0; 1 << 20]);
                entries += 1;
            }
        }
        "host-calls" => loop {
            ctx.get("x");
        },
        "host-work" => {
            ctx.set("big", vec![0; 1 << 20]);
            loop {
                ctx.get("big");
            }
        }
        "stage-and-trap" => {
            ctx.set("staged", vec![1]);
            ctx.delete("count");
            raw::trap()
        }
        _ => return None,
    })
}

/// Handles the value of the key `migration` as a message, and stores the answer at the key `migrated`.
impl Migrate for Hostile {
    const FROM: &'static [u32] = &[2, 7];

    fn migrate(ctx: &mut Context<'_>, from: u32) -> Result<(), String> {
        let message = Message { value: ctx.get("migration"), ..Message::default() };
        let outputs = Self::handle(ctx, &message).map_err(|rejection| format!("{rejection:?}"))?;
        let answer = outputs.into_iter().find_map(|output| output.value).unwrap_or_default();
        ctx.set("migrated", [format!("{from} ").into_bytes(), answer].concat());
        Ok(())
    }
}

fn output(value: Vec<u8>) -> Outbound {
    Outbound { topic: "OUT".into(), key: None, value: Some(value), headers: vec![] }
}

/// Keeps nothing in linear memory: otherwise the stack of Rust's locals would overflow first.
#[inline(never)]
fn recurse(depth: usize) -> usize {
    if depth == 0 { 0 } else { recurse(depth - 1).wrapping_mul(3) ^ depth }
}
