"""Where images and data sets lie: projections to a plane, and how much they distort."""
