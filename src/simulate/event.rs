//! The events of a simulated world, independent of the format in which they are published.

/// A simulated event. It is small and without text: boards and items are indexes into the
/// [`SiteCatalog`](super::catalog::SiteCatalog).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SimulatedEvent {
    /// An item arrived, moved, was detected again or left.
    Item(ItemMove),
    /// A board changed status.
    Board(BoardChange),
}

/// An event of an item on a board.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemMove {
    /// Index of the item in `SiteCatalog::items`.
    pub item: u32,
    /// Index of the board in `SiteCatalog::boards`.
    pub board: u32,
    /// Time of the event, nanoseconds since the Unix epoch. Strictly increasing for one item, in
    /// whatever order its events are published.
    pub momentum_ns: i64,
    /// True if the item is on the board, false after it has left.
    pub is_in: bool,
    /// Position on the board, millimetres.
    pub pos_mm: [i32; 2],
    /// Number of detections behind the event.
    pub nb_hits: i32,
    /// Time since the item arrived at the board, nanoseconds.
    pub hold_ns: i64,
    /// Covered share of the board's surface, 0 to 1.
    pub fill_ratio: f32,
    /// True if the position is computed rather than measured.
    pub is_interpolated: bool,
    /// Variation in the vendor's encoding of this event.
    pub quirks: EncodingQuirks,
}

/// A change of a board's status.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoardChange {
    /// Index of the board in `SiteCatalog::boards`.
    pub board: u32,
    /// Time of the event, nanoseconds since the Unix epoch. Strictly increasing for one board.
    pub momentum_ns: i64,
    /// New status of the board.
    pub status: BoardStatus,
    /// Times of the last changes of status.
    pub dates: BoardDates,
    /// Variation in the vendor's encoding of this event.
    pub quirks: EncodingQuirks,
}

/// The vendor's `BoardStatus`, with the numbers of the protobuf enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardStatus {
    /// Connected and in service.
    Connected = 0,
    /// Without power or network.
    Disconnected = 1,
    /// Failed with an error.
    OnError = 2,
    /// In the bootloader, waiting for firmware.
    Maintenance = 3,
    /// Connected, but not operating: its self-test failed.
    Degraded = 4,
}

impl BoardStatus {
    /// Returns the name without the enum's prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "CONNECTED",
            Self::Disconnected => "DISCONNECTED",
            Self::OnError => "ONERROR",
            Self::Maintenance => "MAINTENANCE",
            Self::Degraded => "DEGRADED",
        }
    }
}

/// Times of a board's last changes of status, nanoseconds since the Unix epoch. `None` is Go's zero
/// time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoardDates {
    /// Last connection, `LastConnectionDate` of the vendor.
    pub connection_ns: Option<i64>,
    /// Last disconnection, `LastDisconnectionDate` of the vendor.
    pub disconnection_ns: Option<i64>,
    /// Last error, `LastErrorDate` of the vendor.
    pub error_ns: Option<i64>,
}

/// Variations in the vendor's encoding that do not change the meaning. They are chosen once per
/// event, so that its two formats agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodingQuirks {
    /// Fields that the subscription masks.
    pub masked: FieldMask,
    /// Write empty lists as `[]` rather than `null`.
    pub empty_lists: bool,
    /// Time zone of JSON times, minutes from UTC.
    pub offset_minutes: i16,
    /// Write `BOARDSTATUS_CONNECTED` rather than `CONNECTED`.
    pub prefixed_status: bool,
    /// Send unset protobuf dates as the year 1 instead of omitting them.
    pub zero_dates: bool,
}

/// A set of item fields that are present, but empty or zero. It never includes `uid`, `momentum`,
/// `board_sn` and `is_in`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldMask(pub u8);

impl FieldMask {
    /// The fields `pos_mm`, `pos_on_shelf_mm` and `pos_on_floor_mm`.
    pub const POSITIONS: Self = Self(1);
    /// The fields `nb_hits` and `fill_ratio`.
    pub const MEASUREMENTS: Self = Self(1 << 1);
    /// The field `hold_time` alone.
    pub const HOLD_TIME: Self = Self(1 << 2);
    /// The field `product_reference` alone.
    pub const PRODUCT: Self = Self(1 << 3);
    /// The fields `shelf_sn`, `furniture_sn` and `floor`.
    pub const FURNITURE: Self = Self(1 << 4);
    /// The field `loc_reference` alone.
    pub const LOCATION: Self = Self(1 << 5);
    /// The fields `loc_labels` and `item_labels`.
    pub const LABELS: Self = Self(1 << 6);
    /// The field `tenant` alone.
    pub const TENANT: Self = Self(1 << 7);

    /// Returns true if one of these fields is masked.
    pub fn hides(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }
}
