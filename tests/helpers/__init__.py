"""What tests of several files share. Imported as `helpers.NAME`; holds no test."""
