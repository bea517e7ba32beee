"""What several recipes share. Nothing here is started by itself."""
