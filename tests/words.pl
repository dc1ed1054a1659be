# Reads NUL-separated file names below FOLDER from standard input, and checks their prose against the list
# of words. Called by words.sh: perl words.pl FOLDER LIST
use strict;
use warnings;

# Limits for 1,000 words of prose: words of the list, noun clauses with "what", and semicolons in comments
# of Rust.
my $most = 3;

my ($folder, $list) = @ARGV;
my @words;
open my $in, '<', $list or die "$list: $!";
while (<$in>) {
    next if /^#/ || /^\s*$/;
    chomp;
    my ($kind, $pattern, $term) = split /\t/;
    die "$list:$.: not three columns\n" unless defined $term && $kind =~ /^(?:never|rarely)$/;
    $pattern =~ s/~\?/[ -]?/g;
    $pattern =~ s/~/(?:[ \\t]+|[ \\t]*\\n[ \\t]*)/g;
    push @words, [$kind, qr/(?:$pattern)/i, $term];
}
my $any = join '|', map { $_->[1] } @words;
$any = qr/(?<![\w'-])(?:$any)(?![\w'-])/i;

# Replaces everything but line ends with spaces.
sub blank { my $text = shift; $text =~ s/[^\n]/ /g; return $text }

# Keeps the comments of Rust source in their lines.
sub comments_of_rust {
    my $text = shift;
    my $prose = '';
    while ($text =~ m~\G(?:
          ( //[^\n]* | /\*.*?\*/ )
        | ( (?<!\w)b?r(\#*)".*?"\g{3} | b?"(?:\\.|[^"\\])*" | '(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'
            | [^/"'rb]+ | . )
    )~gsx) {
        my ($comment, $other) = ($1, $2);
        if (defined $comment) { $comment =~ s{^(?://[/!]?|/\*)}{blank($&)}e; $prose .= $comment }
        else { $prose .= blank($other) }
    }
    return $prose;
}

# Keeps what follows a marker at the beginning of a line or after white space.
sub comments_after {
    my ($text, $marker) = @_;
    my $prose = '';
    for my $line (split /(?<=\n)/, $text) {
        if ($line =~ /^(?:|.*?\s)($marker+)(?=\s|!)/) {
            $prose .= blank(substr $line, 0, $+[1]) . substr($line, $+[1]);
        } else { $prose .= blank($line) }
    }
    return $prose;
}

# Leaves out code and links of a document.
sub text_of_markdown {
    my $text = shift;
    $text =~ s/^```.*?^```$/blank($&)/gmse;
    $text =~ s/\]\([^)\s]*\)/blank($&)/ge;
    $text =~ s/<!--.*?-->/blank($&)/gse;
    return $text;
}

sub prose_of {
    my ($name, $text) = @_;
    # Made from the comments of migrations, see below.
    return if $name eq 'docs/schema.md';
    return text_of_markdown($text) if $name =~ /\.md$/;
    return comments_of_rust($text) if $name =~ /\.rs$/;
    # Migrations are never changed, and these were written before the rule.
    return if $name =~ m{^migrations/00(?:0\d|1[0-2])_};
    return comments_after($text, '--') if $name =~ /\.sql$/;
    return comments_after($text, '#')
        if $name =~ /\.(?:toml|sh|pl|py|yaml|service|sysusers|tmpfiles)$|(?:^|\/)(?:Makefile|Containerfile)$/;
    return;
}

my ($total, $failed, @found, @what, @semicolons) = (0, 0);
local $/ = "\0";
my @names = <STDIN>;
chomp @names;
$/ = undef;
for my $name (sort map { s{^\./}{}r } @names) {
    next if $name =~ m{^(?:fuzz/seeds|fuzz/corpus|tests/samples|target)/} || $name eq 'tests/words.txt';
    open my $file, '<', "$folder/$name" or next;
    my $prose = prose_of($name, scalar <$file>);
    next unless defined $prose;
    $prose =~ s/`[^`\n]*`/blank($&)/ge;
    $total += () = $prose =~ /[A-Za-z][A-Za-z']*/g;
    while ($prose =~ /$any|\bwhat\b|;/gi) {
        my ($found, $line) = ($&, 1 + (substr($prose, 0, $-[0]) =~ tr/\n//));
        if ($found eq ';') {
            push @semicolons, "$name:$line: semicolon: use a full stop" if $name =~ /\.rs$/;
            next;
        }
        if (lc $found eq 'what') { push @what, "$name:$line: what: use a noun"; next }
        my ($word) = grep { $found =~ /^$_->[1]$/ } @words;
        my ($kind, $term) = $word ? @$word[0, 2] : ('rarely', 'another word');
        $found =~ s/\s+/ /g;
        push @found, [$kind, "$name:$line: $found: use $term"];
    }
}
my @banned = map { $_->[1] } grep { $_->[0] eq 'never' } @found;
if (@banned) {
    print "$_\n" for @banned;
    $failed = 1;
}
my %banned = map { $_ => 1 } @banned;
my @listed = map { $_->[1] } @found;
for (['words of tests/words.txt', \@listed], ['noun clauses with "what"', \@what], ['semicolons', \@semicolons]) {
    my ($name, $places) = @$_;
    my $rate = $total ? 1000 * @$places / $total : 0;
    if ($rate >= $most) {
        print map { "$_\n" } grep { !$banned{$_} } @$places;
        $failed = 1;
    }
    printf "prose: %d %s in %d words (%.1f per 1,000, limit %d)\n", scalar @$places, $name, $total, $rate, $most;
}
exit $failed;
