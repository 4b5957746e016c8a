package weir.client;

/** Calls that failed and were made again. */
final class Errors {
    private static final long PAUSE_MS = 200;

    private int count;
    private String latest = "";

    /** Notes a failure, and waits a little. */
    void add(Exception error) throws InterruptedException {
        count += 1;
        latest = error.toString();
        Thread.sleep(PAUSE_MS);
    }

    String report() {
        String text = latest.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ");
        return String.format("\"errors\":%d,\"error\":\"%s\"", count, text);
    }
}
