"""What a reader takes away: charts and Perfetto timelines. Every file appears whole or not at all."""
