// SPDX-License-Identifier: MIT OR Apache-2.0
//! The constants of `vfiomig_inspect_*`.

use crate::capi::numbers::{same_flags, same_numbers};
use crate::inspect::{Checked, FieldFlags, ProblemKind, Tags, Verdict};

/// The beginning of the stream: major, minor, required, optional and migration_id.
pub const VFIOMIG_INSPECT_ENTRY_PREAMBLE: u32 = 1;
/// How it is authenticated: algorithm, key_id, nonce and challenge; algorithm is 0 where that cannot
/// be read.
pub const VFIOMIG_INSPECT_ENTRY_AUTHENTICATION: u32 = 2;
/// A frame.
pub const VFIOMIG_INSPECT_ENTRY_FRAME: u32 = 3;
/// Damage begins here. What cannot be understood follows as VFIOMIG_INSPECT_ENTRY_GAP.
pub const VFIOMIG_INSPECT_ENTRY_DAMAGE: u32 = 4;
/// Bytes that could not be understood.
pub const VFIOMIG_INSPECT_ENTRY_GAP: u32 = 5;
/// The stream ends here.
pub const VFIOMIG_INSPECT_ENTRY_END: u32 = 6;

/// It is right.
pub const VFIOMIG_INSPECT_CHECKED_RIGHT: u32 = 1;
/// It is wrong.
pub const VFIOMIG_INSPECT_CHECKED_WRONG: u32 = 2;
/// It was not looked at: the frame breaks a rule, is longer than the limits allow, or is cut short.
pub const VFIOMIG_INSPECT_CHECKED_NOT: u32 = 3;
/// It is a tag, and there is no key to verify it with.
pub const VFIOMIG_INSPECT_CHECKED_NO_KEY: u32 = 4;

/// The stream does not begin like one.
pub const VFIOMIG_INSPECT_PROBLEM_NOT_A_STREAM: u32 = 1;
/// The preamble's check is wrong.
pub const VFIOMIG_INSPECT_PROBLEM_PREAMBLE_CHECK: u32 = 2;
/// A major version that this library does not read.
pub const VFIOMIG_INSPECT_PROBLEM_VERSION: u32 = 3;
/// Features that this library does not have.
pub const VFIOMIG_INSPECT_PROBLEM_FEATURES: u32 = 4;
/// The authentication block is damaged, or not there.
pub const VFIOMIG_INSPECT_PROBLEM_BLOCK: u32 = 5;
/// It is authenticated in another way than can be verified here, there is no key with its id, or it
/// was made with another key.
pub const VFIOMIG_INSPECT_PROBLEM_KEY: u32 = 6;
/// It was made for another load.
pub const VFIOMIG_INSPECT_PROBLEM_CHALLENGE: u32 = 7;
/// It is not authenticated, and only authenticated streams are wanted.
pub const VFIOMIG_INSPECT_PROBLEM_NOT_AUTHENTICATED: u32 = 8;
/// There is no frame where one must begin.
pub const VFIOMIG_INSPECT_PROBLEM_MARK: u32 = 9;
/// The check of a frame's header is wrong.
pub const VFIOMIG_INSPECT_PROBLEM_HEADER_CHECK: u32 = 10;
/// Frames are missing, or came twice, or in another order.
pub const VFIOMIG_INSPECT_PROBLEM_SEQUENCE: u32 = 11;
/// The first frame is not the identity, or another one is.
pub const VFIOMIG_INSPECT_PROBLEM_ORDER: u32 = 12;
/// A frame of another device.
pub const VFIOMIG_INSPECT_PROBLEM_DEVICE: u32 = 13;
/// Flags that the frame may not have.
pub const VFIOMIG_INSPECT_PROBLEM_FLAGS: u32 = 14;
/// A length that the frame may not have.
pub const VFIOMIG_INSPECT_PROBLEM_LENGTH: u32 = 15;
/// More than the limits allow.
pub const VFIOMIG_INSPECT_PROBLEM_LIMIT: u32 = 16;
/// A frame of a newer format that must not be skipped.
pub const VFIOMIG_INSPECT_PROBLEM_UNKNOWN_FRAME: u32 = 17;
/// The check of a payload is wrong.
pub const VFIOMIG_INSPECT_PROBLEM_PAYLOAD_CHECK: u32 = 18;
/// The tag of a frame is wrong.
pub const VFIOMIG_INSPECT_PROBLEM_TAG: u32 = 19;
/// A payload that is not what the format has there.
pub const VFIOMIG_INSPECT_PROBLEM_CONTENTS: u32 = 20;
/// What the end says of the stream is not what came.
pub const VFIOMIG_INSPECT_PROBLEM_TOTALS: u32 = 21;
/// Something follows the end.
pub const VFIOMIG_INSPECT_PROBLEM_AFTER_END: u32 = 22;
/// The stream ends within a piece.
pub const VFIOMIG_INSPECT_PROBLEM_TRUNCATED: u32 = 23;
/// The stream ends without its end.
pub const VFIOMIG_INSPECT_PROBLEM_NO_END: u32 = 24;

/// Not all of the stream has come.
pub const VFIOMIG_INSPECT_VERDICT_PENDING: u32 = 0;
/// Whole: a load with the same limits and keys takes it.
pub const VFIOMIG_INSPECT_VERDICT_WHOLE: u32 = 1;
/// Nothing is wrong with it as far as can be told without a key.
pub const VFIOMIG_INSPECT_VERDICT_UNVERIFIED: u32 = 2;
/// What is there is right, and it stops before its end.
pub const VFIOMIG_INSPECT_VERDICT_INCOMPLETE: u32 = 3;
/// Not damaged, and a load refuses it: a newer format, more than the limits, or another key.
pub const VFIOMIG_INSPECT_VERDICT_REFUSED: u32 = 4;
/// Damaged.
pub const VFIOMIG_INSPECT_VERDICT_DAMAGED: u32 = 5;
/// It does not begin like a stream.
pub const VFIOMIG_INSPECT_VERDICT_FOREIGN: u32 = 6;

/// It has none, or that is not known yet.
pub const VFIOMIG_INSPECT_TAGS_NONE: u32 = 0;
/// They are verified.
pub const VFIOMIG_INSPECT_TAGS_VERIFIED: u32 = 1;
/// There is no key to verify them with.
pub const VFIOMIG_INSPECT_TAGS_NO_KEY: u32 = 2;
/// They cannot be verified with the key that there is.
pub const VFIOMIG_INSPECT_TAGS_OTHER_KEY: u32 = 3;

/// expected means something.
pub const VFIOMIG_INSPECT_HAS_EXPECTED: u32 = 1 << 0;
/// found means something.
pub const VFIOMIG_INSPECT_HAS_FOUND: u32 = 1 << 1;
/// After a gap: a frame follows.
pub const VFIOMIG_INSPECT_RESUMED: u32 = 1 << 2;
/// After a gap: missing means something.
pub const VFIOMIG_INSPECT_HAS_MISSING: u32 = 1 << 3;
/// In the report: the stream's end has come.
pub const VFIOMIG_INSPECT_ENDED: u32 = 1 << 4;
/// In the report: major, minor and migration_id mean something.
pub const VFIOMIG_INSPECT_HAS_PREAMBLE: u32 = 1 << 5;
/// In the report: device means something.
pub const VFIOMIG_INSPECT_HAS_DEVICE: u32 = 1 << 6;

/// A number.
pub const VFIOMIG_DECODED_NUMBER: u32 = 1;
/// Bytes, at most 4096.
pub const VFIOMIG_DECODED_BYTES: u32 = 2;
/// A text in UTF-8, at most 4096 bytes, without a NUL at its end.
pub const VFIOMIG_DECODED_TEXT: u32 = 3;

/// People read it in hexadecimal.
pub const VFIOMIG_DECODED_HEX: u32 = 1 << 0;
/// The driver cannot have saved this.
pub const VFIOMIG_DECODED_SUSPECT: u32 = 1 << 1;
/// It means nothing: padding.
pub const VFIOMIG_DECODED_PADDING: u32 = 1 << 2;
/// The value is longer than what is here.
pub const VFIOMIG_DECODED_CUT: u32 = 1 << 3;

same_numbers!(Checked:
    VFIOMIG_INSPECT_CHECKED_RIGHT = Right,
    VFIOMIG_INSPECT_CHECKED_WRONG = Wrong,
    VFIOMIG_INSPECT_CHECKED_NOT = NotChecked,
    VFIOMIG_INSPECT_CHECKED_NO_KEY = NoKey,
);
same_numbers!(ProblemKind:
    VFIOMIG_INSPECT_PROBLEM_NOT_A_STREAM = NotAStream,
    VFIOMIG_INSPECT_PROBLEM_PREAMBLE_CHECK = PreambleCheck,
    VFIOMIG_INSPECT_PROBLEM_VERSION = Version,
    VFIOMIG_INSPECT_PROBLEM_FEATURES = Features,
    VFIOMIG_INSPECT_PROBLEM_BLOCK = Block,
    VFIOMIG_INSPECT_PROBLEM_KEY = Key,
    VFIOMIG_INSPECT_PROBLEM_CHALLENGE = Challenge,
    VFIOMIG_INSPECT_PROBLEM_NOT_AUTHENTICATED = NotAuthenticated,
    VFIOMIG_INSPECT_PROBLEM_MARK = Mark,
    VFIOMIG_INSPECT_PROBLEM_HEADER_CHECK = HeaderCheck,
    VFIOMIG_INSPECT_PROBLEM_SEQUENCE = Sequence,
    VFIOMIG_INSPECT_PROBLEM_ORDER = Order,
    VFIOMIG_INSPECT_PROBLEM_DEVICE = Device,
    VFIOMIG_INSPECT_PROBLEM_FLAGS = Flags,
    VFIOMIG_INSPECT_PROBLEM_LENGTH = Length,
    VFIOMIG_INSPECT_PROBLEM_LIMIT = Limit,
    VFIOMIG_INSPECT_PROBLEM_UNKNOWN_FRAME = UnknownFrame,
    VFIOMIG_INSPECT_PROBLEM_PAYLOAD_CHECK = PayloadCheck,
    VFIOMIG_INSPECT_PROBLEM_TAG = Tag,
    VFIOMIG_INSPECT_PROBLEM_CONTENTS = Contents,
    VFIOMIG_INSPECT_PROBLEM_TOTALS = Totals,
    VFIOMIG_INSPECT_PROBLEM_AFTER_END = AfterEnd,
    VFIOMIG_INSPECT_PROBLEM_TRUNCATED = Truncated,
    VFIOMIG_INSPECT_PROBLEM_NO_END = NoEnd,
);
same_numbers!(Verdict:
    VFIOMIG_INSPECT_VERDICT_PENDING = Pending,
    VFIOMIG_INSPECT_VERDICT_WHOLE = Whole,
    VFIOMIG_INSPECT_VERDICT_UNVERIFIED = Unverified,
    VFIOMIG_INSPECT_VERDICT_INCOMPLETE = Incomplete,
    VFIOMIG_INSPECT_VERDICT_REFUSED = Refused,
    VFIOMIG_INSPECT_VERDICT_DAMAGED = Damaged,
    VFIOMIG_INSPECT_VERDICT_FOREIGN = Foreign,
);
same_numbers!(Tags:
    VFIOMIG_INSPECT_TAGS_NONE = None,
    VFIOMIG_INSPECT_TAGS_VERIFIED = Verified,
    VFIOMIG_INSPECT_TAGS_NO_KEY = NoKey,
    VFIOMIG_INSPECT_TAGS_OTHER_KEY = OtherKey,
);
same_flags!(FieldFlags:
    VFIOMIG_DECODED_HEX = HEX,
    VFIOMIG_DECODED_SUSPECT = SUSPECT,
    VFIOMIG_DECODED_PADDING = PADDING,
    VFIOMIG_DECODED_CUT = CUT,
);
