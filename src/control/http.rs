//! As much of HTTP/1.1 as a scraper and a load balancer need: one GET or HEAD a connection.
//!
//! Own code, as this is all of it: a head of bounded size in, a status and a text out; there is no
//! body, no second request and no header that is looked at but those that announce a body.
//!
//! Invariants:
//! - Nothing is answered before the whole head is there, and no head is longer than [`HEAD_MAX`].
//! - Nothing that a caller sends comes back in an answer.

/// The longest head of a request, bytes.
pub const HEAD_MAX: usize = 4096;

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for, without a query.
    pub path: String,
    /// HEAD: the answer has no body.
    pub head_only: bool,
}

/// How much is known of what a caller has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not all there.
    More,
    /// All of it.
    Request(Request),
    /// Answer with this status, and end the connection.
    Refused(u16),
}

/// Reads what has arrived so far.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end.filter(|end| end + 4 <= HEAD_MAX) else {
        // What cannot become a request is not waited for.
        let long = bytes.len() >= HEAD_MAX;
        let odd = bytes.iter().take(HEAD_MAX).any(|byte| !is_text(*byte));
        return if odd {
            Parsed::Refused(400)
        } else if long {
            Parsed::Refused(431)
        } else {
            Parsed::More
        };
    };
    let head = &bytes[..end];
    match std::str::from_utf8(head) {
        Ok(head) if head.bytes().all(is_text) => match request(head) {
            Ok(request) => Parsed::Request(request),
            Err(status) => Parsed::Refused(status),
        },
        Ok(_) | Err(_) => Parsed::Refused(400),
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~')
}

fn request(head: &str) -> Result<Request, u16> {
    let mut lines = head.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first.as_slice() else { return Err(400) };
    if !matches!(*version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(if version.starts_with("HTTP/") { 505 } else { 400 });
    }
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(400);
        }
        let length = name.eq_ignore_ascii_case("content-length") && value.trim() != "0";
        if length || name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(400);
        }
    }
    let head_only = match *method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(405),
    };
    let target = origin_form(target).ok_or(400_u16)?;
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    Ok(Request { path, head_only })
}

/// The target without scheme and host, which every server has to take (RFC 9112, 3.2.2).
fn origin_form(target: &str) -> Option<&str> {
    const SCHEME: &str = "http://";
    match target.get(..SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let rest = &target[SCHEME.len()..];
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            (!host.is_empty()).then_some(if path.is_empty() { "/" } else { path })
        }
        _ => target.starts_with('/').then_some(target),
    }
}

/// A whole answer.
#[must_use]
pub fn answer(status: u16, kind: &str, body: &str, head_only: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    };
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        text.push_str(body);
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed {
        parse(text.as_bytes())
    }

    #[test]
    fn a_scrape_is_understood_and_half_of_one_is_waited_for() {
        let text = "GET /metrics?a=b HTTP/1.1\r\nHost: x:9942\r\nAccept: */*\r\n\r\n";
        let wanted = Request { path: "/metrics".to_owned(), head_only: false };
        assert_eq!(parsed(text), Parsed::Request(wanted));
        for end in 0..text.len() {
            assert_eq!(parsed(&text[..end]), Parsed::More, "{end}");
        }
        for (target, path) in [
            ("http://x:9942/metrics?a", "/metrics"),
            ("HTTP://[::1]:9942/primary/r0", "/primary/r0"),
            ("http://x", "/"),
        ] {
            let wanted = Request { path: path.to_owned(), head_only: false };
            assert_eq!(parsed(&format!("GET {target} HTTP/1.1\r\n\r\n")), Parsed::Request(wanted));
        }
        let wanted = Request { path: "/health".to_owned(), head_only: true };
        assert_eq!(parsed("HEAD /health HTTP/1.0\r\n\r\n"), Parsed::Request(wanted));
    }

    #[test]
    fn what_is_no_such_request_is_refused_with_its_status() {
        for (text, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", 405),
            ("GET /metrics HTTP/2.0\r\n\r\n", 505),
            ("GET /metrics\r\n\r\n", 400),
            ("GET  /metrics HTTP/1.1\r\n\r\n", 400),
            ("GET metrics HTTP/1.1\r\n\r\n", 400),
            ("GET http:///metrics HTTP/1.1\r\n\r\n", 400),
            ("GET ftp://x/metrics HTTP/1.1\r\n\r\n", 400),
            ("GET /metrics GARBAGE\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("\r\n\r\n", 400),
            ("\0", 400),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(parsed(text), Parsed::Refused(status), "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX));
        assert_eq!(parsed(&long), Parsed::Refused(431));
        assert_eq!(parsed(&long[..HEAD_MAX]), Parsed::Refused(431));
    }

    #[test]
    fn an_answer_has_a_length_and_ends_the_connection() {
        let text = String::from_utf8(answer(200, "text/plain", "ok\n", false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\nok\n"), "{text}");
        let head = String::from_utf8(answer(200, "text/plain", "ok\n", true)).unwrap();
        assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }
}
