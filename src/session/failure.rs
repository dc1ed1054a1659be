//! Turns what rumqttc reports into a cause and a cure.
