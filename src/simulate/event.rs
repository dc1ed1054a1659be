//! What a simulated world brings forth: facts by number, ready to be written in any format.

/// One event. Small and without text: boards and items are places in the
/// [`SiteCatalog`](super::catalog::SiteCatalog).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SimulatedEvent {
    /// An item came, moved, was seen again or left.
    Item(ItemMove),
    /// A board changed status.
    Board(BoardChange),
}

/// An item event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemMove {
    /// Index into `SiteCatalog::items`.
    pub item: u32,
    /// Index into `SiteCatalog::boards`.
    pub board: u32,
    /// Nanoseconds since the Unix epoch; grows strictly for one item, whatever order the events
    /// are published in.
    pub momentum_ns: i64,
    /// True: on the board; false: it left.
    pub is_in: bool,
    /// Position on the board, millimetres.
    pub pos_mm: [i32; 2],
    /// Detections behind the event.
    pub nb_hits: i32,
    /// Since the item came to the board.
    pub hold_ns: i64,
    /// Share of the board that is covered.
    pub fill_ratio: f32,
    /// Computed, not measured.
    pub is_interpolated: bool,
    /// How the vendor's platform happens to write it.
    pub quirks: EncodingQuirks,
}

/// A board status event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoardChange {
    /// Index into `SiteCatalog::boards`.
    pub board: u32,
    /// Nanoseconds since the Unix epoch; grows strictly for one board.
    pub momentum_ns: i64,
    /// The new status.
    pub status: BoardStatus,
    /// Last dates, nanoseconds since the Unix epoch.
    pub dates: BoardDates,
    /// How the vendor's platform happens to write it.
    pub quirks: EncodingQuirks,
}

/// The vendor's `BoardStatus`; the numbers are those of the enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardStatus {
    /// In service.
    Connected = 0,
    /// Without power or network.
    Disconnected = 1,
    /// Out of order.
    OnError = 2,
    /// In the bootloader, waiting for firmware.
    Maintenance = 3,
    /// Connected, but not operating: its self-test failed.
    Degraded = 4,
}

impl BoardStatus {
    /// Without the enum's prefix.
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

/// Nanoseconds since the Unix epoch; `None` is Go's zero time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoardDates {
    /// `LastConnectionDate`.
    pub connection_ns: Option<i64>,
    /// `LastDisconnectionDate`.
    pub disconnection_ns: Option<i64>,
    /// `LastErrorDate`.
    pub error_ns: Option<i64>,
}

/// What varies in the vendor's encoding without changing the meaning. Drawn once an event, so
/// that its two formats agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodingQuirks {
    /// Fields that the subscription hides.
    pub masked: FieldMask,
    /// An empty list is `[]` rather than `null`.
    pub empty_lists: bool,
    /// Zone of JSON times.
    pub offset_minutes: i16,
    /// `BOARDSTATUS_CONNECTED` rather than `CONNECTED`.
    pub prefixed_status: bool,
    /// Unset protobuf dates are sent as the year 1, not left out.
    pub zero_dates: bool,
}

/// A set of item fields that are present, but empty or zero. Never the ones that tell who, when,
/// where and whether.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldMask(pub u8);

impl FieldMask {
    /// `pos_mm`, `pos_on_shelf_mm`, `pos_on_floor_mm`.
    pub const POSITIONS: Self = Self(1);
    /// `nb_hits`, `fill_ratio`.
    pub const FIGURES: Self = Self(1 << 1);
    /// `hold_time`.
    pub const HOLD_TIME: Self = Self(1 << 2);
    /// `product_reference`.
    pub const PRODUCT: Self = Self(1 << 3);
    /// `shelf_sn`, `furniture_sn`, `floor`.
    pub const FURNITURE: Self = Self(1 << 4);
    /// `loc_reference`.
    pub const LOCATION: Self = Self(1 << 5);
    /// `loc_labels`, `item_labels`.
    pub const LABELS: Self = Self(1 << 6);
    /// `tenant`.
    pub const TENANT: Self = Self(1 << 7);

    /// Whether these fields are hidden.
    pub fn hides(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }
}
