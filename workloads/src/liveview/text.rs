//! A frame's text as it goes over a socket, with the header that a socket puts before it.
//! Rule: made once; every reader has the same bytes, and nobody has a copy.

use axum::body::Bytes;

/// FIN, and the opcode of a text (RFC 6455, 5.2).
const FINAL_TEXT: u8 = 0x81;
/// In place of a length: it follows in 2 bytes, or in 8.
const LENGTH_IN_2: u8 = 126;
const LENGTH_IN_8: u8 = 127;

/// A text. A clone shares it.
#[derive(Clone, Debug)]
pub struct Text {
    message: Bytes,
    header: usize,
}

impl Text {
    /// Takes a text. What a server sends is not masked, so it is the same for all.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut message = vec![FINAL_TEXT];
        match (u8::try_from(text.len()), u16::try_from(text.len())) {
            (Ok(length), _) if length < LENGTH_IN_2 => message.push(length),
            (_, Ok(length)) => {
                message.push(LENGTH_IN_2);
                message.extend(length.to_be_bytes());
            }
            _ => {
                message.push(LENGTH_IN_8);
                message.extend((text.len() as u64).to_be_bytes());
            }
        }
        let header = message.len();
        message.extend(text.as_bytes());
        Self { message: message.into(), header }
    }

    /// As a WebSocket message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// As the body of an answer.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.message.slice(self.header..)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It was made of a text.
        std::str::from_utf8(&self.message[self.header..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_has_the_header_of_the_standard() {
        for (length, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let text = Text::new(&"x".repeat(length));
            assert_eq!((&text.message()[..header.len()], text.as_str().len()), (header, length));
            assert_eq!(text.message().len(), header.len() + length);
            assert_eq!(text.body(), text.as_str().as_bytes());
        }
    }
}
