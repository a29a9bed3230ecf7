//! What a session counts for operators.

use std::collections::BTreeMap;

use serde::Serialize;

/// Messages by type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Messages {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
}

impl Messages {
    /// Counts one by its type octet (RFC 4271 section 4.1, RFC 2918).
    pub(super) fn count(&mut self, kind: u8) {
        match kind {
            1 => self.open += 1,
            2 => self.update += 1,
            3 => self.notification += 1,
            4 => self.keepalive += 1,
            5 => self.route_refresh += 1,
            _ => {}
        }
    }

    /// Counts whole messages that we encoded.
    pub(super) fn count_encoded(&mut self, mut bytes: &[u8]) {
        // Length at octets 16 and 17, type at 18 (RFC 4271 section 4.1).
        while let Some(&[high, low, kind]) = bytes.get(16..19) {
            self.count(kind);
            let length = usize::from(u16::from_be_bytes([high, low]));
            bytes = bytes.get(length.max(19)..).unwrap_or_default();
        }
    }
}

/// Everything counted since the neighbor was configured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    /// Messages received.
    pub received: Messages,
    /// Messages handed to the driver.
    pub sent: Messages,
    /// NOTIFICATIONs received, by `code/subcode`.
    pub notifications_received: BTreeMap<String, u64>,
    /// NOTIFICATIONs sent, by `code/subcode`.
    pub notifications_sent: BTreeMap<String, u64>,
    /// Changes of state.
    pub transitions: u64,
    /// Times that Established was reached.
    pub established: u64,
    /// UPDATEs of which RFC 7606 asked more than acceptance.
    pub malformed: u64,
    /// ROUTE-REFRESHes that asked for a family.
    pub refreshes: u64,
}

/// Distinct `code/subcode` kept apart; a neighbor that sends every pair there is must not grow the table.
const NOTIFICATION_KINDS: usize = 64;

/// Counts one NOTIFICATION; what exceeds the table is counted as `other`.
pub(super) fn count_notification(table: &mut BTreeMap<String, u64>, code: u8, subcode: u8) {
    let key = format!("{code}/{subcode}");
    let key = if table.len() < NOTIFICATION_KINDS || table.contains_key(&key) { key } else { "other".to_owned() };
    *table.entry(key).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_messages_are_counted_by_their_headers() {
        let message = |kind: u8, body: &[u8]| {
            let length = u16::try_from(19 + body.len()).expect("short").to_be_bytes();
            [&[0xff; 16][..], &length, &[kind], body].concat()
        };
        let mut count = Messages::default();
        count.count_encoded(
            &[message(4, &[]), message(2, &[0; 300]), message(2, &[0; 4]), message(3, &[6, 2])].concat(),
        );
        assert_eq!(count, Messages { open: 0, update: 2, notification: 1, keepalive: 1, route_refresh: 0 });
    }

    #[test]
    fn the_table_of_notifications_is_bounded() {
        let mut table = BTreeMap::new();
        for subcode in 0..=255 {
            count_notification(&mut table, 6, subcode);
        }
        assert_eq!(table.len(), NOTIFICATION_KINDS + 1);
        assert_eq!(table.values().sum::<u64>(), 256);
    }
}
