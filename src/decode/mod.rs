//! From bytes on a topic to an event, or to a reason why not.
