//! The thin bridge: HTTP on one side, a pipe on the other, and nothing between them but other ids. One thread, one process behind
//! it. It knows no sessions, checks nothing, waits for ever. No proxy can be much faster, so it is the ceiling for those over stdio.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::process::Stdio;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

#[derive(Default)]
struct Bridge {
    /// What the process has not been given yet.
    output: RefCell<BytesMut>,
    written: Notify,
    /// By our numbers: the client's id, and who waits.
    waiting: RefCell<HashMap<u64, (Bytes, oneshot::Sender<Bytes>)>>,
    next: Cell<u64>,
}

/// Runs on a local set, until the process ends.
pub async fn serve(listener: TcpListener, program: &str, args: &[String]) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let bridge = Rc::new(Bridge::default());
    spawn_local(write(Rc::clone(&bridge), child.stdin.take().unwrap()));
    spawn_local(read(Rc::clone(&bridge), child.stdout.take().unwrap()));
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let bridge = Rc::clone(&bridge);
        let service = service_fn(move |request| {
            let bridge = Rc::clone(&bridge);
            async move { Ok::<_, Infallible>(answer(&bridge, request).await) }
        });
        spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(bridge: &Bridge, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return Response::new(Full::default());
    }
    let Ok(body) = request.into_body().collect().await else { return Response::default() };
    let body = body.to_bytes();
    let Some((from, to)) = id_in(&body) else {
        bridge.send(&[&body]);
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::ACCEPTED;
        return response;
    };
    let number = bridge.next.get() + 1;
    bridge.next.set(number);
    let (sender, answered) = oneshot::channel();
    bridge.waiting.borrow_mut().insert(number, (body.slice(from..to), sender));
    bridge.send(&[&body[..from], number.to_string().as_bytes(), &body[to..]]);
    let mut response = Response::new(Full::new(answered.await.unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Bridge {
    fn send(&self, parts: &[&[u8]]) {
        let mut output = self.output.borrow_mut();
        parts.iter().for_each(|part| output.extend_from_slice(part));
        output.extend_from_slice(b"\n");
        self.written.notify_one();
    }

    fn take(&self, line: &[u8]) {
        let Some((from, to)) = id_in(line) else { return };
        let number = std::str::from_utf8(&line[from..to]).ok().and_then(|number| number.parse().ok());
        if let Some((id, waiting)) = number.and_then(|number| self.waiting.borrow_mut().remove(&number)) {
            let _ = waiting.send([&line[..from], &id, &line[to..]].concat().into());
        }
    }
}

/// Where the id is: the first one, as our clients and our server write it.
fn id_in(text: &[u8]) -> Option<(usize, usize)> {
    let from = memchr::memmem::find(text, b"\"id\":")? + 5;
    let length = text[from..].iter().position(|byte| matches!(byte, b',' | b'}'))?;
    Some((from, from + length))
}

async fn write(bridge: Rc<Bridge>, mut stdin: ChildStdin) {
    loop {
        bridge.written.notified().await;
        let output = bridge.output.borrow_mut().split();
        if stdin.write_all(&output).await.is_err() {
            return;
        }
    }
}

async fn read(bridge: Rc<Bridge>, mut stdout: ChildStdout) {
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    let mut searched = 0;
    while matches!(stdout.read_buf(&mut buffer).await, Ok(1..)) {
        while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]) {
            let line = buffer.split_to(searched + end + 1);
            searched = 0;
            bridge.take(&line);
        }
        searched = buffer.len();
        buffer.reserve(64 * 1024);
    }
}
