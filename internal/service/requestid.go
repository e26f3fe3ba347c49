package service

// RequestIDKey is the metadata by which a caller of admin names a change, so that doing it again changes nothing: 1 to 64
// letters, digits, _ and -, such as a UUID.
const RequestIDKey = "stagecoach-request-id"
