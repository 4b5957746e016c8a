package weir.client;

import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;

/** The words of the command line: an action, then options with a value each. */
final class Options {
    final String action;
    private final Map<String, String> values = new HashMap<>();

    Options(String[] words) {
        if (words.length % 2 == 0) {
            throw new IllegalArgumentException("an action and options with a value each are expected");
        }
        action = words[0];
        for (int i = 1; i < words.length; i += 2) {
            if (!words[i].startsWith("--")) {
                throw new IllegalArgumentException(words[i] + " is not an option");
            }
            values.put(words[i].substring(2), words[i + 1]);
        }
    }

    Optional<String> text(String name) {
        return Optional.ofNullable(values.get(name));
    }

    String required(String name) {
        return text(name).orElseThrow(() -> new IllegalArgumentException("--" + name + " is missing"));
    }

    int number(String name, int otherwise) {
        return text(name).map(Integer::parseInt).orElse(otherwise);
    }

    Duration seconds(String name, int otherwise) {
        return Duration.ofSeconds(number(name, otherwise));
    }
}
