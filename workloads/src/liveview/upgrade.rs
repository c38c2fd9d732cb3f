//! The request that opens a WebSocket (RFC 6455, 4.2), and the socket that comes of it.
//! Rule: what the request lacks is said in a sentence; the socket is the bare one, for frames are written past its buffers.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::api::refuse;

const VERSION: HeaderValue = HeaderValue::from_static("13");

/// An open socket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A request for a socket that can be granted.
pub struct Upgrade {
    accept: HeaderValue,
    connection: OnUpgrade,
}

/// Whether a list of words in a header has this one.
fn lists(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(word))
}

/// Whether it asks for a socket at all.
#[must_use]
pub fn wants_socket(headers: &HeaderMap) -> bool {
    lists(headers, header::UPGRADE, "websocket")
}

/// What the key is answered with.
///
/// # Errors
/// The refusal: what is missing, or the version that is spoken here.
fn accept(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Box<Response>> {
    let wrong = |sentence| Box::new(refuse(StatusCode::BAD_REQUEST, sentence));
    if method != Method::GET {
        return Err(Box::new(refuse(StatusCode::METHOD_NOT_ALLOWED, "a socket is opened with GET")));
    }
    if !wants_socket(headers) || !lists(headers, header::CONNECTION, "upgrade") {
        return Err(wrong("this is a WebSocket: send `Connection: Upgrade` and `Upgrade: websocket`"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        let refusal = refuse(StatusCode::UPGRADE_REQUIRED, "send `Sec-WebSocket-Version: 13`");
        return Err(Box::new(([(header::SEC_WEBSOCKET_VERSION, VERSION)], refusal).into_response()));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| wrong("send a `Sec-WebSocket-Key`"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| wrong("this `Sec-WebSocket-Key` is none"))
}

impl<State: Send + Sync> FromRequestParts<State> for Upgrade {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Response> {
        let accept = accept(&parts.method, &parts.headers).map_err(|refusal| *refusal)?;
        // It is there on every connection of HTTP/1.1.
        let connection = parts.extensions.remove::<OnUpgrade>();
        let Some(connection) = connection else {
            return Err(refuse(StatusCode::BAD_REQUEST, "this connection cannot become a socket: use HTTP/1.1"));
        };
        Ok(Self { accept, connection })
    }
}

impl Upgrade {
    /// Grants it, and has the socket served.
    pub fn grant<Serving>(
        self,
        config: WebSocketConfig,
        serve: impl FnOnce(Socket) -> Serving + Send + 'static,
    ) -> Response
    where
        Serving: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, connection } = self;
        tokio::spawn(async move {
            // Who is gone before the answer wants nothing any more.
            if let Ok(upgraded) = connection.await {
                serve(Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await).await;
            }
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changes: &[(HeaderName, Option<&str>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        for (name, value) in changes {
            match value {
                Some(value) => headers.insert(name, HeaderValue::from_str(value).unwrap()),
                None => headers.remove(name),
            };
        }
        headers
    }

    #[test]
    fn a_right_request_gets_the_answer_of_the_standards_example() {
        assert_eq!(accept(&Method::GET, &headers(&[])).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_that_lacks_something_is_refused() {
        for (changes, status) in [
            ((header::CONNECTION, None), 400),
            ((header::CONNECTION, Some("keep-alive")), 400),
            ((header::UPGRADE, None), 400),
            ((header::UPGRADE, Some("h2c")), 400),
            ((header::SEC_WEBSOCKET_VERSION, Some("8")), 426),
            ((header::SEC_WEBSOCKET_KEY, None), 400),
        ] {
            let refusal = accept(&Method::GET, &headers(std::slice::from_ref(&changes))).unwrap_err();
            assert_eq!(refusal.status().as_u16(), status, "{changes:?}");
        }
        assert_eq!(accept(&Method::POST, &headers(&[])).unwrap_err().status().as_u16(), 405);
    }
}
