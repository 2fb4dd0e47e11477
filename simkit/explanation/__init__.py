"""Why a source is near to a target, or far: classes, images and features behind a score."""
