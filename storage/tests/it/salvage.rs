//! Damage inside of the last frames: whole records stay, what was durable is not cut, and no offset is given twice.

use std::{
    path::Path,
    sync::{Arc, mpsc},
};

use weir_storage::{
    Append, Appended, DurabilityClass, Env, Finding, GroupId, JournalEntry, LogPosition, QueueOffset, Remedy,
    Storage, TopicId, Verified, Wait, verify,
};

use crate::support::{Place, QUEUE, append, journal, message, new_topic, numbers, rows, wait_visible};

const ROWS: u64 = 200;

/// Publishes messages in one frame.
fn append_at_once(storage: &Storage, topic: TopicId, numbers: std::ops::Range<u64>) -> Vec<Appended> {
    let (sender, receiver) = mpsc::channel();
    let batch = numbers.map(|number| Append { topic, queue: QUEUE, message: message(number) }).collect();
    storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap()
}

fn ack(topic: TopicId, offset: u64) -> JournalEntry {
    JournalEntry::Ack { group: GroupId(1), topic, queue: QUEUE, offsets: vec![QueueOffset(offset)] }
}

fn look(place: &Place) -> Verified {
    let env: Arc<dyn Env> = Arc::new(place.env.clone());
    verify(&env, Path::new("/data"), &mut |_| {}).unwrap()
}

/// A broker that stored 200 messages in one frame and had the last ones acknowledged, killed.
struct Killed {
    place: Place,
    topic: TopicId,
    appended: Vec<Appended>,
}

impl Killed {
    fn new(acked: bool) -> Self {
        let mut place = Place::new();
        place.options.log_segment_bytes_min = 1 << 20;
        place.options.log_segment_bytes_max = 1 << 20;
        let storage = place.open();
        let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
        let appended = append_at_once(&storage, topic, 0..ROWS);
        wait_visible(&storage, topic, ROWS);
        if acked {
            // Not synced: it is enough that it survives the process.
            journal(&storage, ack(topic, ROWS - 1), Wait::Written).unwrap();
        }
        place.kill(storage);
        Self { place, topic, appended }
    }

    fn header(&self) -> LogPosition {
        // Between header and first row lies the record of the topic.
        LogPosition(0)
    }

    /// Checks what verify says, and returns its one finding.
    fn finding(&self) -> Finding {
        let found = look(&self.place);
        let [finding] = found.findings.as_slice() else { panic!("{:?}", found.findings) };
        assert!(finding.path.starts_with("/data/log") && !finding.bytes.is_empty(), "{finding:?}");
        assert_eq!(finding.remedy, Remedy::Fenced);
        finding.clone()
    }

    /// Starts twice, and checks that only these rows are missing, and that it is said once.
    fn check(&self, missing: std::ops::Range<u64>) {
        let mut expected = numbers(0..ROWS);
        for row in missing {
            expected[row as usize] = None;
        }
        let storage = self.place.open();
        let report = storage.report();
        assert_eq!((report.fences.len(), &report.cut, report.cut_queues), (1, &None, 0), "{report:?}");
        assert_eq!(rows(&storage, self.topic), expected);
        assert_eq!(storage.take_journal(), [ack(self.topic, ROWS - 1)], "what was acknowledged stays so");
        self.place.kill(storage);

        let storage = self.place.open();
        assert!(storage.report().fences.is_empty(), "{:?}", storage.report());
        assert_eq!(rows(&storage, self.topic), expected);
        assert_eq!(append(&storage, self.topic, ROWS).unwrap().offset, QueueOffset(ROWS), "no offset twice");
        expected.push(Some(ROWS));
        storage.checkpoint().unwrap();
        self.place.kill(storage);
        // With files of consume queues, and once more from the log alone.
        for lost in ["nothing", "checkpoint"] {
            if lost == "checkpoint" {
                self.place.env.lose(Path::new("/data/checkpoint"));
            }
            let storage = self.place.open();
            assert_eq!(rows(&storage, self.topic), expected, "without {lost}");
            self.place.kill(storage);
            let found = look(&self.place);
            assert!(
                found.findings.iter().all(|finding| finding.remedy == Remedy::Known),
                "{:?}",
                found.findings
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_an_acknowledged_last_frame_costs_its_record() {
    for row in [0, 120, ROWS - 1] {
        let killed = Killed::new(true);
        killed.place.flip(LogPosition(killed.appended[row as usize].position.0 + 150));
        let finding = killed.finding();
        assert_eq!(finding.bytes.start, 4096 + killed.appended[row as usize].position.0);
        let [rows] = finding.rows.as_slice() else { panic!("{finding:?}") };
        assert_eq!(
            (rows.topic, rows.offsets.clone()),
            (killed.topic, QueueOffset(row)..QueueOffset(row + 1))
        );
        killed.check(row..row + 1);
    }
}

/// The journal names the row, whatever is left of its record.
#[test]
fn the_last_row_keeps_its_offset_when_its_record_no_longer_says_it() {
    for byte in [0, 10, 17, 25, 33] {
        let killed = Killed::new(true);
        let last = killed.appended[ROWS as usize - 1].position;
        killed.place.flip(LogPosition(last.0 + byte));
        assert_eq!(killed.finding().bytes.start, 4096 + last.0);
        killed.check(ROWS - 1..ROWS);
    }
}

#[test]
fn a_damaged_header_of_a_frame_costs_no_record() {
    for byte in [0, 5, 13, 20, 25, 30, 35, 62] {
        let killed = Killed::new(true);
        killed.place.flip(LogPosition(killed.header().0 + byte));
        let finding = killed.finding();
        assert_eq!(finding.bytes, 4096..4096 + 64, "{finding:?}");
        assert!(finding.what.contains("header") && finding.rows.is_empty(), "{finding:?}");
        killed.check(0..0);
    }
}

#[test]
fn a_file_that_was_cut_within_an_acknowledged_frame_keeps_the_records_in_front() {
    let killed = Killed::new(true);
    let file = killed.place.files("log").pop().unwrap();
    let at = killed.appended[150].position.0 + 100;
    killed.place.env.damage(&file, |bytes| bytes.truncate(4096 + at as usize));
    let finding = killed.finding();
    assert_eq!(finding.bytes.start, 4096 + killed.appended[150].position.0);
    assert_eq!(finding.rows[0].offsets, QueueOffset(150)..QueueOffset(ROWS));
    killed.check(150..ROWS);
}

/// A call is stored as a whole or not at all, and nobody has been given any of it.
#[test]
fn a_last_frame_that_nothing_proves_is_dropped_as_a_whole() {
    let killed = Killed::new(false);
    killed.place.flip(LogPosition(killed.appended[120].position.0 + 150));
    let storage = killed.place.open();
    assert_eq!(storage.report().fences, []);
    assert!(storage.report().cut.is_some());
    assert_eq!(rows(&storage, killed.topic), []);
    assert_eq!(append(&storage, killed.topic, 0).unwrap().offset, QueueOffset(0));
}

/// One sector that holds the end of a frame and the header of the next one, and another bad one in the latter's payload.
#[test]
fn a_frame_behind_one_without_header_keeps_its_records() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    let batches: Vec<_> =
        (0..4).map(|batch| append_at_once(&storage, topic, batch * 10..batch * 10 + 10)).collect();
    wait_visible(&storage, topic, 40);
    place.kill(storage);
    let header = batches[1][0].position.0 - 64;
    place.flip(LogPosition(header + 20));
    place.flip(LogPosition(header + 64 + 10));
    place.flip(LogPosition(batches[2][5].position.0 + 150));
    let found = look(&place);
    let lost: Vec<_> =
        found.findings.iter().map(|finding| (finding.bytes.start - 4096, finding.remedy)).collect();
    let expected = [header, batches[2][5].position.0].map(|position| (position, Remedy::Fenced));
    assert_eq!(lost, expected, "{:?}", found.findings);
    let mut expected = numbers(0..40);
    expected[10..20].fill(None);
    expected[25] = None;
    for fences in [2, 0] {
        let storage = place.open();
        assert_eq!(storage.report().fences.len(), fences, "{:?}", storage.report());
        assert_eq!(rows(&storage, topic), expected);
        place.kill(storage);
    }
    assert!(look(&place).findings.iter().all(|finding| finding.remedy == Remedy::Known));
    place.env.lose(Path::new("/data/checkpoint"));
    assert_eq!(rows(&place.open(), topic), expected, "from the log alone");
}

#[test]
fn damage_in_the_journal_is_reported_once() {
    let place = Place::new();
    let storage = place.open();
    let topic = storage.create_topic(new_topic("t", DurabilityClass::Sync)).unwrap().id;
    for number in 0..5 {
        append(&storage, topic, number).unwrap();
        journal(&storage, ack(topic, number), Wait::Durable).unwrap();
    }
    place.kill(storage);
    let file = place.files("journal").pop().unwrap();
    place.env.damage(&file, |bytes| bytes[4096 + 2 * 96 + 70] ^= 1);
    let storage = place.open();
    assert_eq!(storage.report().journal_fences.len(), 1);
    let known = storage.take_journal();
    assert_eq!(known.len(), 4);
    // The next entry lets the journal rotate; its owner writes what it must still say.
    journal(&storage, ack(topic, 4), Wait::Durable).unwrap();
    for entry in known.clone() {
        journal(&storage, entry, Wait::Durable).unwrap();
    }
    storage.journal_rotated();
    journal(&storage, ack(topic, 4), Wait::Durable).unwrap();
    assert!(!place.files("journal").contains(&file), "the damaged segment is gone");
    place.kill(storage);
    assert_eq!(look(&place).findings, []);
    let storage = place.open();
    assert_eq!(storage.report().journal_fences, []);
    let mut expected = known;
    expected.push(ack(topic, 4));
    assert_eq!(storage.take_journal(), expected);
}

/// Whoever repairs is told before it which rows a rebuild does not bring back.
#[test]
fn a_repair_says_which_rows_a_rebuild_will_miss() {
    let killed = Killed::new(true);
    let storage = killed.place.open();
    storage.close().unwrap();
    drop(storage);
    killed.place.flip(LogPosition(killed.appended[120].position.0 + 150));
    assert_eq!(look(&killed.place).missing_after_rebuild(), [], "nothing is built anew");
    // The block that would say where the row lay is damaged, too.
    let file = killed.place.files("queues/shared").pop().unwrap();
    killed.place.env.damage(&file, |bytes| bytes[64 + 20] ^= 1);
    let missing = look(&killed.place).missing_after_rebuild();
    let [rows] = missing.as_slice() else { panic!("{missing:?}") };
    assert_eq!((rows.topic, rows.offsets.clone()), (killed.topic, QueueOffset(120)..QueueOffset(121)));
}
