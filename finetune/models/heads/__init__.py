"""What a head is, the heads of every task, and the table by which all heads are found."""
