//! The read-only HTTP face: `/health`, `/status`, `/metrics`.
//!
//! Whoever reaches the port reads names of groups, flows and slots, positions and errors, but no row and no secret; so
//! it belongs on an address that only the monitoring reaches. A connection carries one request, which may be 16 KiB long
//! and take ten seconds with its answer; there are at most 32 connections at one time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::connections::serve_all;
use crate::error::Error;
use crate::info::info;
use crate::manager::Shared;
use crate::metrics;

const CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const MAX_REQUEST: usize = 16 * 1024;
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A bound port.
#[derive(Debug)]
pub(crate) struct Http {
    listener: TcpListener,
    shared: Shared,
}

impl Http {
    pub(crate) async fn bind(address: SocketAddr, shared: Shared) -> Result<Self, Error> {
        let listen = |source| Error::Listen { address: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        Ok(Self { listener, shared })
    }

    /// Serves until cancelled.
    pub(crate) async fn run(self) {
        let accept =
            |context: &mut Context<'_>| self.listener.poll_accept(context).map_ok(|(stream, _)| stream);
        serve_all("an HTTP connection", CONNECTIONS, accept, |stream| {
            let served = timeout(PATIENCE, serve(stream, self.shared.clone()));
            async move { drop(served.await) }
        })
        .await;
    }
}

async fn serve(stream: TcpStream, shared: Shared) {
    let service = service_fn(|request| answer(request, &shared));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    if !matches!(path, "/health" | "/status" | "/metrics") {
        let text = "there are /health, /status and /metrics\n".to_owned();
        return Ok(response(StatusCode::NOT_FOUND, TEXT, text));
    }
    if !is_read {
        let mut refused =
            response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this can only be read\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    let (overview, seen) = (shared.overview.borrow().clone(), shared.seen.borrow().clone());
    let directory = shared.state_directory.clone();
    let looked = tokio::task::spawn_blocking(move || info(&directory, &overview, &seen)).await;
    let Ok(info) = looked else {
        let text = "the manager is ending\n".to_owned();
        return Ok(response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text));
    };
    Ok(match path {
        "/metrics" => response(StatusCode::OK, METRICS, metrics::render(&info)),
        "/status" => match serde_json::to_string(&info) {
            Ok(json) => response(StatusCode::OK, JSON, json),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        _ => {
            let status = if info.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = serde_json::json!({ "healthy": info.healthy, "complaints": info.complaints });
            response(status, JSON, body.to_string())
        }
    })
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
