"""From a document to a policy, with every problem of it in the words of the file."""
