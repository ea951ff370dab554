"""The preference model: what votes tell about the rewards of responses. Arrays in, arrays out."""
